// What each instruction set's build offers to the rest. Addresses come in the order that Python
// gives them in; matrices are row by row, as in torch.
#pragma once

#include "sequence.hpp"

// pᵗ = b + U xᵗ, where xᵗ is a row of x, (N, I), or stands for a token, (N), from 0 to I − 1, or −1 for
// none; b may be null. Where x is given U is (G, I), where tokens are it is (I, G); else p is given.
// G is H, or 3H for a GRU.
//
// hᵗ = f(pᵗ + W hᵗ⁻¹), or f(pᵗ) where W and h0 are null: then rows are only rows.
template <class F> struct Elman {
  const F *x;
  const int64_t *tokens;
  const F *U, *b;
  const F *p;          // (N, H); h itself where x or tokens are given
  const F *W, *h0;     // (H, H), (B, H)
  F *h;                // (N, H), written by forward
};

template <class F> struct ElmanGradients {
  const F *h, *last;             // (N, H), and (B, H) or null: what comes in
  F *x, *U, *b, *p, *W, *h0;     // what goes out; null where it is not wanted, but for h0
};

// tanh and relu layers with more in their loop; see looped.hpp. W is (H, K H) for K delays, and h0 is
// (farthest delay, B, H): h⁰, h⁻¹, …
constexpr double norm_epsilon = 1e-5;  // what torch's layer_norm adds to σ²
// Of a gradient that is smaller the type does not know the direction.
template <class F> constexpr double least_norm = sizeof(F) == 4 ? 1e-30 : 1e-290;
template <class F> constexpr double least_square = sizeof(F) == 4 ? 1e-30 : 1e-290;  // that keeps its digits
struct Delays {
  const int64_t *d;  // rising; the first is 1
  int count;
};

template <class F> struct Looped {
  const F *x;
  const int64_t *tokens;
  const F *U, *b;
  const F *p;
  const F *W, *h0;
  const F *leak, *gain, *shift;  // (H) each, or null
  // (N, H), (N) and (N, H), written by forward where there is a gain, and a leak; h itself else.
  F *normal, *by_spread, *fresh;
  F *h;
};

template <class F> struct LoopedGradients {
  const F *h;
  F *x, *U, *b, *p, *W, *leak, *gain, *shift, *h0, *omega;  // h0 is added to; omega: Ω itself, (1)
};

// r and z from σ(p + a), n = tanh(pₙ + r aₙ), h ← n + z (h − n), with a = c + W hᵗ⁻¹.
template <class F> struct Gru {
  const F *x;
  const int64_t *tokens;
  const F *U, *b;
  const F *p;              // (N, 3H); gates itself where x or tokens are given
  const F *W, *c, *h0;     // (3H, H), (3H), (B, H)
  F *gates, *a_n, *h;      // (r, z, n): (N, 3H), (N, H), (N, H), written by forward
};

template <class F> struct GruGradients {
  const F *h, *last;
  F *x, *U, *b, *p, *W, *c, *h0;
};

// A free run: T steps of B sequences of a stack of layers of H units each, which says what it is fed
// back at the next step: symbols, or Y numbers; from O outputs.
enum Kind { CATEGORICAL, BERNOULLI, GAUSSIAN };
struct FreeSizes {
  int64_t T, B;
  int H, O, Y, layers;
  bool each_p;            // p is (T, B, H), else (H)
  Kind kind;
  bool is_likeliest;      // temperature 0
  double by_temperature;  // 1 / temperature, else
};

// b + U x + W h; null where there is none.
template <class F> struct FreeLayer {
  const F *U, *W, *b;  // (H, H), (H, H), (H)
};

template <class F> struct Free {
  const F *p;      // b + U xᵗ of the first layer
  const F *R;      // (O, H) for symbols, else (H, Y); null where nothing is fed back
  const F *V, *c;  // (O, H), (O)
  const F *noise;  // (T, B) for symbols, else (T, B, O)
  const F *scale;  // (O), of a Gaussian
  union {
    const F *given;  // what is fed back where it is forced, (T, B) or (T, B, Y)
    const int64_t *given_tokens;
  };
  const uint8_t *forced, *resets;  // (T, B), or null
  union {
    const F *first;  // (B) or (B, Y)
    const int64_t *first_tokens;
  };
  union {
    F *own;  // (T, B) or (T, B, Y), written
    int64_t *own_tokens;
  };
  F *h;  // (layers, B, H), read and written
};

// Each computes a share of the batch, and says whether it had the memory for it.
template <class F> struct Layers {
  bool (*elman_forward)(const Sequence &, Share, int I, int H, bool relu, const Elman<F> &);
  bool (*elman_backward)(const Sequence &, Share, int I, int H, bool relu, const Elman<F> &,
                         const ElmanGradients<F> &);
  bool (*looped_forward)(const Sequence &, Share, int I, int H, bool relu, const Delays &, const Looped<F> &);
  bool (*looped_backward)(const Sequence &, Share, int I, int H, bool relu, const Delays &, F omega,
                          const Looped<F> &, const LoopedGradients<F> &);
  bool (*gru_forward)(const Sequence &, Share, int I, int H, const Gru<F> &);
  bool (*gru_backward)(const Sequence &, Share, int I, int H, const Gru<F> &, const GruGradients<F> &);
  bool (*free_run)(const FreeSizes &, Share, bool relu, const FreeLayer<F> *, const Free<F> &);
  void (*tanh)(const F *x, F *y, int64_t n);
};

struct Build {
  const char *name;
  Layers<float> single;
  Layers<double> twice;
};

extern const Build portable_build, avx2_build, avx512_build;
