// What each instruction set's build offers to the rest. Addresses come in the order that Python
// gives them in; matrices are row by row, as in torch.
#pragma once

#include "sequence.hpp"

// pᵗ = b + U xᵗ, where xᵗ is a row of x, (N, I), or stands for a token, (N), from 0 to I − 1, or −1 for
// none; b may be null. Where x is given U is (G, I), where tokens are it is (I, G); else p is given.
// G is H, or 3H for a GRU.
//
// hᵗ = f(pᵗ + W hᵗ⁻¹).
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

// Each computes a share of the batch, and says whether it had the memory for it.
template <class F> struct Layers {
  bool (*elman_forward)(const Sequence &, Share, int I, int H, bool relu, const Elman<F> &);
  bool (*elman_backward)(const Sequence &, Share, int I, int H, bool relu, const Elman<F> &,
                         const ElmanGradients<F> &);
  bool (*gru_forward)(const Sequence &, Share, int I, int H, const Gru<F> &);
  bool (*gru_backward)(const Sequence &, Share, int I, int H, const Gru<F> &, const GruGradients<F> &);
  void (*tanh)(const F *x, F *y, int64_t n);
};

struct Build {
  const char *name;
  Layers<float> single;
  Layers<double> twice;
};

extern const Build portable_build, avx2_build, avx512_build;
