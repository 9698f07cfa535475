// What each instruction set's build offers to the rest.
#pragma once

#include "program.hpp"

// Each computes a share of the batch.
template <class F> struct Layers {
  Outcome (*loop_forward)(const Program &, const Sequence &, Share, int I, const Run<F> &);
  Outcome (*loop_backward)(const Program &, const Sequence &, Share, int I, const Run<F> &, const RunGradients<F> &);
  void (*tanh)(const F *x, F *y, int64_t n);
};

struct Build {
  const char *name;
  Layers<float> single;
  Layers<double> twice;
};

extern const Build portable_build, avx2_build, avx512_build;
