// Ω of a tanh or relu layer, and its immediate gradient, read off the backward loop.
#pragma once

#include "product.hpp"

namespace BPTT_ISA {

// Of a gradient that is smaller the type does not know the direction.
template <class F> constexpr double least_norm = sizeof(F) == 4 ? 1e-30 : 1e-290;
template <class F> constexpr double least_square = sizeof(F) == 4 ? 1e-30 : 1e-290;  // that keeps its digits

// f'(a) times a gradient, from h = f(a).
template <class F> static inline Vec<F> through(Vec<F> grad, Vec<F> h, bool relu) {
  return relu ? (h <= F(0) ? Vec<F>{} : grad) : grad * (F(1) - h * h);
}

// The norm of a row of whole vectors, also where the squares of its parts are too small for their type.
template <class F> static double norm_of(const F *row, int64_t width) {
  Vec<F> squares = {}, sizes = {};
  for (int64_t c = 0; c < width; c += lanes<F>) squares += load<F>(row + c, lanes<F>) * load<F>(row + c, lanes<F>);
  F sum = total<F>(squares);
  if (sum > least_square<F>) return __builtin_sqrt(double(sum));
  for (int64_t c = 0; c < width; c += lanes<F>) {
    Vec<F> size = with_sign_of<F>(load<F>(row + c, lanes<F>), Vec<F>{});
    sizes = size > sizes ? size : sizes;
  }
  F largest = 0;
  for (int lane = 0; lane < lanes<F>; lane++) largest = sizes[lane] > largest ? sizes[lane] : largest;
  if (!(largest > least_norm<F>)) return 0;
  squares = Vec<F>{};
  for (int64_t c = 0; c < width; c += lanes<F>) {
    Vec<F> scaled = load<F>(row + c, lanes<F>) * (1 / largest);
    squares += scaled * scaled;
  }
  return largest * __builtin_sqrt(double(total<F>(squares)));
}

// Ω of one pair of steps (Pascanu, Mikolov and Bengio 2013, equations 9 and 10), with ∂L/∂aₖ₊₁ = δ, and
// left = f'(aₖ) ⊙ Wᵀ δ in place of Wᵀ δ. Its immediate gradient is δ times a row, which is added to the
// row that δ meets in ∂L/∂W, hₖ. All rows are of whole vectors.
template <class F>
static double add_omega(const F *delta, F *left, F *meets, int64_t width, bool relu, F weight) {
  constexpr int L = lanes<F>;
  for (int64_t c = 0; c < width; c += L)
    store<F>(left + c, through<F>(load<F>(left + c, L), load<F>(meets + c, L), relu), L);
  double before = norm_of(delta, width), after = norm_of(left, width);
  if (!(before > least_norm<F> && after > least_norm<F>)) return 0;  // no gradient arrives
  double off = after / before - 1;
  F unit = F(1 / after), scale = F(2 * off / before) * weight;
  for (int64_t c = 0; c < width; c += L) {
    Vec<F> h = load<F>(meets + c, L);
    store<F>(meets + c, h + through<F>(load<F>(left + c, L) * unit, h, relu) * scale, L);
  }
  return off * off;
}

}  // namespace BPTT_ISA
