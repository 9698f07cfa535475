// The gated recurrent unit over a whole sequence, and its gradient. The twin of kernel/reference.py:
// (aᵣ, a_z, aₙ) = bias + W h, r = σ(pᵣ + aᵣ), z = σ(p_z + a_z), n = tanh(pₙ + r aₙ), h ← n + z (h − n).
#pragma once

#include "elman.hpp"

namespace BPTT_ISA {

// From pᵗ in p, (N, 3H), writes (r, z, n) to gates, (N, 3H), which may be p itself, and a_n and h.
template <class F>
static bool gru_forward(const Sequence &s, Share share, int H, const F *W, const F *bias, const F *h0,
                        const F *p, F *gates, F *a_n, F *h) {
  Panels<F> panels(W, H, 3 * H, 1, H);
  int64_t rows = share.last - share.first;
  F *scratch = static_cast<F *>(malloc(rows * 4 * H * sizeof(F)));
  if (!panels.ready() || !scratch) return free(scratch), false;
  F *a = scratch + rows * H;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      const F *last = before < 0 ? h0 + from * H : h + (s.start_of(before) + from) * H;
      const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
      last = without_reset(last, to - from, H, resets, scratch);
      product(last, int(to - from), panels, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(a + (int64_t)row * 3 * H + column, sum + load<F>(bias + column, n), n);
      });
      for (int64_t row = 0; row < to - from; row++) {
        int64_t at = s.start_of(t) + from + row;
        const F *in = p + at * 3 * H;
        F *out = gates + at * 3 * H;
        const F *mine = a + row * 3 * H;
        for (int c = 0; c < H; c += lanes<F>) {
          int count = H - c < lanes<F> ? H - c : lanes<F>;
          Vec<F> r = sigmoid<F>(load<F>(in + c, count) + load<F>(mine + c, count));
          Vec<F> z = sigmoid<F>(load<F>(in + H + c, count) + load<F>(mine + H + c, count));
          Vec<F> an = load<F>(mine + 2 * H + c, count);
          Vec<F> n = tanh(load<F>(in + 2 * H + c, count) + r * an);
          store<F>(out + c, r, count);
          store<F>(out + H + c, z, count);
          store<F>(out + 2 * H + c, n, count);
          store<F>(a_n + at * H + c, an, count);
          store<F>(h + at * H + c, n + z * (load<F>(last + row * H + c, count) - n), count);
        }
      }
    });
  }
  free(scratch);
  return true;
}

// From grad_h, (N, H), and grad_last, (B, H) or null, computes ∂L/∂pᵗ (grad_p, (N, 3H)), ∂L/∂aₙ
// (grad_a_n, (N, H); ∂L/∂aᵣ and ∂L/∂a_z are those of p) and ∂L/∂h⁰ (grad_h0, (B, H)).
template <class F>
static bool gru_backward(const Sequence &s, Share share, int H, const F *W, const F *h0, const F *gates,
                         const F *a_n, const F *h, const F *grad_h, const F *grad_last, F *grad_p,
                         F *grad_a_n, F *grad_h0) {
  Panels<F> panels(W, 3 * H, H, H, 1);
  int64_t rows = share.last - share.first;
  // What goes back: ∂L/∂a of the step after, and of the step that is being computed; and z ∂L/∂h.
  F *scratch = static_cast<F *>(malloc(rows * 7 * H * sizeof(F)));
  if (!panels.ready() || !scratch) return free(scratch), false;
  F *grad_a_after = scratch, *grad_a = scratch + rows * 3 * H, *past_z = scratch + rows * 6 * H;
  Sequence back = s;
  back.reversed = !s.reversed;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = back.nth(i), start = s.start_of(t), before = s.before(t), old = s.rows_at(before);
    // Row r of the batch gets `sum` from the steps after t, besides what came past their gate z.
    auto one = [&](int64_t r, int c, Vec<F> sum, int count) {
      int64_t at = start + r, mine = r - share.first;
      bool reset = s.resets && s.resets[at];
      const F *g = gates + at * 3 * H + c;
      Vec<F> rr = load<F>(g, count), z = load<F>(g + H, count), n = load<F>(g + 2 * H, count);
      const F *previous = r < old ? h + (s.start_of(before) + r) * H : h0 + r * H;
      Vec<F> last = reset ? Vec<F>{} : load<F>(previous + c, count);
      Vec<F> grad = load<F>(grad_h + at * H + c, count) + sum;
      Vec<F> grad_n = grad * (F(1) - z) * (F(1) - n * n);
      Vec<F> grad_z = grad * (last - n) * z * (F(1) - z);
      Vec<F> grad_r = grad_n * load<F>(a_n + at * H + c, count) * rr * (F(1) - rr);
      Vec<F> parts[3] = {grad_r, grad_z, grad_n};
      for (int k = 0; k < 3; k++) {
        store<F>(grad_p + (at * 3 + k) * H + c, parts[k], count);
        Vec<F> into = k < 2 ? parts[k] : grad_n * rr;
        store<F>(grad_a + (mine * 3 + k) * H + c, reset ? Vec<F>{} : into, count);
      }
      store<F>(grad_a_n + at * H + c, grad_n * rr, count);
      store<F>(past_z + mine * H + c, reset ? Vec<F>{} : grad * z, count);
    };
    stretches(back, share, t, [&](int64_t from, int64_t to, int64_t after) {
      F *z_part = past_z + (from - share.first) * H;
      if (after >= 0)
        return product(grad_a_after + (from - share.first) * 3 * H, int(to - from), panels,
                       [&](int row, int c, Vec<F> sum, int count) {
                         one(from + row, c, sum + load<F>(z_part + (int64_t)row * H + c, count), count);
                       });
      for (int64_t r = from; r < to; r++)
        for (int c = 0; c < H; c += lanes<F>) {
          int count = H - c < lanes<F> ? H - c : lanes<F>;
          one(r, c, grad_last ? load<F>(grad_last + r * H + c, count) : Vec<F>{}, count);
        }
    });
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t earlier) {
      if (earlier >= 0) return;
      const F *z_part = past_z + (from - share.first) * H;
      product(grad_a + (from - share.first) * 3 * H, int(to - from), panels,
              [&](int row, int c, Vec<F> sum, int count) {
                store<F>(grad_h0 + (from + row) * H + c,
                         sum + load<F>(z_part + (int64_t)row * H + c, count), count);
              });
    });
    F *swap = grad_a_after;
    grad_a_after = grad_a;
    grad_a = swap;
  }
  free(scratch);
  return true;
}

}  // namespace BPTT_ISA
