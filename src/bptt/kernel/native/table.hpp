// What each instruction set's build offers to the rest.
#pragma once

#include "sequence.hpp"

template <class F> struct Layers {
  bool (*elman_forward)(const Sequence &, Share, int H, const F *W, const F *h0, const F *p, F *h,
                        bool relu);
  bool (*elman_backward)(const Sequence &, Share, int H, const F *W, const F *h, const F *grad_h,
                         const F *grad_last, F *grad_p, F *grad_h0, bool relu);
  bool (*gru_forward)(const Sequence &, Share, int H, const F *W, const F *bias, const F *h0,
                      const F *p, F *gates, F *a_n, F *h);
  bool (*gru_backward)(const Sequence &, Share, int H, const F *W, const F *h0, const F *gates,
                       const F *a_n, const F *h, const F *grad_h, const F *grad_last, F *grad_p,
                       F *grad_a_n, F *grad_h0);
  void (*tanh)(const F *x, F *y, int64_t n);
};

struct Build {
  const char *name;
  Layers<float> single;
  Layers<double> twice;
};

extern const Build portable_build, avx2_build, avx512_build;
