// What each instruction set's build offers to the rest. Addresses come in the order that Python
// gives them in; matrices are row by row, as in torch.
#pragma once

#include "program.hpp"

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

// Each computes a share of the batch.
template <class F> struct Layers {
  Outcome (*loop_forward)(const Program &, const Sequence &, Share, int I, const Run<F> &);
  Outcome (*loop_backward)(const Program &, const Sequence &, Share, int I, const Run<F> &, const RunGradients<F> &);
  Outcome (*free_run)(const FreeSizes &, Share, bool relu, const FreeLayer<F> *, const Free<F> &);
  void (*tanh)(const F *x, F *y, int64_t n);
};

struct Build {
  const char *name;
  Layers<float> single;
  Layers<double> twice;
};

extern const Build portable_build, avx2_build, avx512_build;
