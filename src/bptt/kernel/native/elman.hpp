// hᵗ = f(pᵗ + W hᵗ⁻¹) over a whole sequence, and its gradient. The twin of kernel/reference.py.
#pragma once

#include "product.hpp"
#include "sequence.hpp"

namespace BPTT_ISA {

template <class F> static inline Vec<F> activate(Vec<F> a, bool relu) {
  return relu ? (a < F(0) ? Vec<F>{} : a) : tanh(a);  // NaN < 0 is false, so NaN stays
}

// f'(a) times a gradient, from h = f(a).
template <class F> static inline Vec<F> through(Vec<F> grad, Vec<F> h, bool relu) {
  return relu ? (h <= F(0) ? Vec<F>{} : grad) : grad * (F(1) - h * h);
}

// Rows with those that are reset zeroed, in `scratch`, or the rows themselves if none are.
template <class F>
static const F *without_reset(const F *rows, int64_t n, int H, const uint8_t *resets, F *scratch) {
  bool any = false;
  for (int64_t r = 0; resets && r < n; r++) any |= resets[r];
  if (!any) return rows;
  for (int64_t r = 0; r < n; r++) {
    if (resets[r])
      std::memset(scratch + r * H, 0, H * sizeof(F));
    else
      std::memcpy(scratch + r * H, rows + r * H, H * sizeof(F));
  }
  return scratch;
}

// Calls step(t, from, to, source) for every stretch of this share's rows at step t, in the order of
// computation, where source is their rows at the step before, or null for rows that begin at t.
template <class Step> static inline void stretches(const Sequence &s, Share share, int64_t t, Step step) {
  auto cut = [&](int64_t n) { return n < share.last ? (n > share.first ? n : share.first) : share.last; };
  int64_t before = s.before(t), end = cut(s.rows_at(t)), old = cut(s.rows_at(before));
  if (old > end) old = end;
  if (old > share.first) step(share.first, old, before);
  if (end > old) step(old, end, int64_t(-1));
}

// Writes hᵗ to h, (N, H), from pᵗ in p, (N, H), which may be h itself. h0 is (B, H).
template <class F>
static bool elman_forward(const Sequence &s, Share share, int H, const F *W, const F *h0, const F *p, F *h,
                          bool relu) {
  Panels<F> panels(W, H, H, 1, H);  // h Wᵀ
  F *scratch = static_cast<F *>(malloc((share.last - share.first) * H * sizeof(F)));
  if (!panels.ready() || !scratch) return free(scratch), false;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      int64_t now = (s.start_of(t) + from) * H;
      const F *last = before < 0 ? h0 + from * H : h + (s.start_of(before) + from) * H;
      const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
      last = without_reset(last, to - from, H, resets, scratch);
      product(last, int(to - from), panels, [&](int row, int column, Vec<F> sum, int n) {
        int64_t at = now + (int64_t)row * H + column;
        store<F>(h + at, activate<F>(load<F>(p + at, n) + sum, relu), n);
      });
    });
  }
  free(scratch);
  return true;
}

// From ∂L/∂hᵗ (grad_h, (N, H)) and ∂L/∂ of the last states (grad_last, (B, H), or null) computes
// ∂L/∂pᵗ (grad_p, (N, H)) and ∂L/∂h⁰ (grad_h0, (B, H)).
template <class F>
static bool elman_backward(const Sequence &s, Share share, int H, const F *W, const F *h, const F *grad_h,
                           const F *grad_last, F *grad_p, F *grad_h0, bool relu) {
  Panels<F> panels(W, H, H, H, 1);  // δ W
  F *scratch = static_cast<F *>(malloc((share.last - share.first) * H * sizeof(F)));
  if (!panels.ready() || !scratch) return free(scratch), false;
  Sequence back = s;
  back.reversed = !s.reversed;
  auto send_back = [&](int64_t t, int64_t from, int64_t to, auto finish) {
    const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
    const F *delta = grad_p + (s.start_of(t) + from) * H;
    delta = without_reset(delta, to - from, H, resets, scratch);
    product(delta, int(to - from), panels, finish);
  };
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = back.nth(i);
    // Seen backward in time, the step before t is the one that t's state went into.
    stretches(back, share, t, [&](int64_t from, int64_t to, int64_t after) {
      int64_t base = (s.start_of(t) + from) * H;
      auto finish = [&](int row, int column, Vec<F> sum, int n) {
        int64_t at = base + (int64_t)row * H + column;
        store<F>(grad_p + at, through<F>(load<F>(grad_h + at, n) + sum, load<F>(h + at, n), relu), n);
      };
      if (after >= 0) return send_back(after, from, to, finish);
      for (int row = 0; row < to - from; row++)
        for (int column = 0; column < H; column += lanes<F>) {
          int n = H - column < lanes<F> ? H - column : lanes<F>;
          finish(row, column, grad_last ? load<F>(grad_last + (from + row) * H + column, n) : Vec<F>{}, n);
        }
    });
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      if (before >= 0) return;
      send_back(t, from, to, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(grad_h0 + (from + row) * H + column, sum, n);
      });
    });
  }
  free(scratch);
  return true;
}

}  // namespace BPTT_ISA
