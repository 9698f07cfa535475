// Vectors, and tanh of them. Compiled once per instruction set, each time in a namespace of its own
// (BPTT_ISA), and free of the standard library, whose inline functions would be shared between them.
#pragma once

#include <cstdint>
#include <cstring>

namespace BPTT_ISA {

template <class F> struct Simd;

template <> struct Simd<float> {
  typedef float Vec __attribute__((vector_size(BPTT_VECTOR_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(BPTT_VECTOR_BYTES)));
};

template <> struct Simd<double> {
  typedef double Vec __attribute__((vector_size(BPTT_VECTOR_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(BPTT_VECTOR_BYTES)));
};

template <class F> using Vec = typename Simd<F>::Vec;
template <class F> constexpr int lanes = BPTT_VECTOR_BYTES / sizeof(F);

// The first `count` of a vector's lanes; the others are 0 when read, and left alone when written.
template <class F> static inline Vec<F> load(const F *from, int count) {
  Vec<F> v = {};
  if (__builtin_expect(count >= lanes<F>, 1))
    std::memcpy(&v, from, sizeof(v));  // of known size: one instruction
  else
    std::memcpy(&v, from, count * sizeof(F));
  return v;
}

template <class F> static inline void store(F *to, Vec<F> v, int count) {
  if (__builtin_expect(count >= lanes<F>, 1))
    std::memcpy(to, &v, sizeof(v));
  else
    std::memcpy(to, &v, count * sizeof(F));
}

template <class F> static inline Vec<F> splat(F value) { return value - Vec<F>{}; }

// |x| and the sign of x, to be put back; min keeps NaN, because NaN > limit is false.
template <class F> static inline Vec<F> with_sign_of(Vec<F> magnitude, Vec<F> x) {
  using Bits = typename Simd<F>::Bits;
  const Bits sign = (Bits)splat<F>(F(-0.0));
  return (Vec<F>)(((Bits)magnitude & ~sign) | ((Bits)x & sign));
}
template <class F> static inline Vec<F> min(Vec<F> x, F limit) {
  return x > limit ? splat<F>(limit) : x;
}

// e^z = 2^n (1 + p), with n the whole number nearest to z / ln 2 and p = expm1 of the rest by its
// Taylor series. For 0 <= z <= 40.
template <class F> struct Exponential {
  Vec<F> power, p;
};

static inline Exponential<float> exponential(Vec<float> z) {
  const float round = 0x1.8p23f;  // adding it leaves a whole number in the low bits
  Vec<float> shifted = z * 0x1.715476p0f + round;
  Vec<float> n = shifted - round;
  Vec<float> r = (z - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  Vec<float> tail = 1.f / 720 + r * (1.f / 5040);
  tail = 1.f / 24 + r * (1.f / 120 + r * tail);
  tail = 0.5f + r * (1.f / 6 + r * tail);
  auto bits = (Simd<float>::Bits)shifted;
  return {(Vec<float>)((bits << 23) + (127 << 23)), r + (r * r) * tail};
}

static inline Exponential<double> exponential(Vec<double> z) {
  const double round = 0x1.8p52;
  Vec<double> shifted = z * 0x1.71547652b82fep0 + round;
  Vec<double> n = shifted - round;
  Vec<double> r = (z - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
  Vec<double> tail = splat<double>(1. / 6227020800.);
  const double inverse_factorials[] = {1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
                                       1. / 40320,     1. / 5040,     1. / 720,     1. / 120,
                                       1. / 24,        1. / 6,        1. / 2};
  for (double c : inverse_factorials) tail = tail * r + c;
  auto bits = (Simd<double>::Bits)shifted;
  return {(Vec<double>)((bits << 52) + (1023ll << 52)), r + (r * r) * tail};
}

// tanh x = t / (t + 2) with t = expm1(2|x|): within 3 units in the last place.
static inline Vec<float> tanh(Vec<float> x) {
  Vec<float> z = min<float>(2 * with_sign_of<float>(x, Vec<float>{}), 20.f);
  auto e = exponential(z);
  Vec<float> t = (e.power - 1.f) + e.power * e.p;
  return with_sign_of<float>(t / (t + 2.f), x);
}

// Below 0.625 x + x³ P(x²), P being mpmath's chebyfit of degree 11; above, 1 − 2 / (e^{2x} + 1).
// Within 2 units in the last place.
static inline Vec<double> tanh(Vec<double> x) {
  Vec<double> m = with_sign_of<double>(x, Vec<double>{});
  auto e = exponential(min<double>(2 * m, 40.));
  Vec<double> far = 1. - 2. / ((e.power + 1.) + e.power * e.p);
  const double P[] = {
      0x1.b33642a122cddp-18, -0x1.05bbdae896297p-15, 0x1.8445870f6fe41p-14,
      -0x1.f243823c8c981p-13, 0x1.3526e9ed54da1p-11, -0x1.7d9f6f23e8682p-10,
      0x1.d6d39ae3905e2p-9, -0x1.226e3473dce5cp-7, 0x1.664f487e0a749p-6,
      -0x1.ba1ba1ba0f126p-5, 0x1.11111111110a8p-3, -0x1.5555555555555p-2,
  };
  Vec<double> s = x * x, tail = {};
  for (double c : P) tail = tail * s + c;
  Vec<double> near = m + (m * s) * tail;
  return with_sign_of<double>(m < 0.625 ? near : far, x);
}

// e^x and e^x − 1 from what e^{x/2} comes to, so that powers of two beyond the type's range are not met.
// Beyond the limits both are as at them: 0 or −1, and infinity. NaN stays.
template <class F> constexpr F lowest_power = sizeof(F) == 4 ? F(-104) : F(-746);
template <class F> constexpr F highest_power = sizeof(F) == 4 ? F(89) : F(710);
template <class F> static inline Exponential<F> half_exponential(Vec<F> x) {
  x = x < lowest_power<F> ? splat<F>(lowest_power<F>) : x;
  return exponential(F(0.5) * min<F>(x, highest_power<F>));
}
template <class F> static inline Vec<F> exponential_of(Vec<F> x) {
  auto e = half_exponential<F>(x);
  Vec<F> root = e.power + e.power * e.p;
  return x != x ? x : root * root;
}
template <class F> static inline Vec<F> less_one(Vec<F> x) {
  auto e = half_exponential<F>(x);
  Vec<F> t = (e.power - F(1)) + e.power * e.p;
  return x != x ? x : t * (t + F(2));
}
static inline Vec<float> exp(Vec<float> x) { return exponential_of<float>(x); }
static inline Vec<double> exp(Vec<double> x) { return exponential_of<double>(x); }
static inline Vec<float> expm1(Vec<float> x) { return less_one<float>(x); }
static inline Vec<double> expm1(Vec<double> x) { return less_one<double>(x); }

// σ(x) = (1 + tanh(x / 2)) / 2.
template <class F> static inline Vec<F> sigmoid(Vec<F> x) {
  return F(0.5) + F(0.5) * tanh(F(0.5) * x);
}

}  // namespace BPTT_ISA
