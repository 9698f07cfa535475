// hᵗ = f(b + U xᵗ + W hᵗ⁻¹) over a whole sequence, and its gradient. The twin of kernel/reference.py.
#pragma once

#include "input.hpp"
#include "table.hpp"

namespace BPTT_ISA {

template <class F> static inline Vec<F> activate(Vec<F> a, bool relu) {
  return relu ? (a < F(0) ? Vec<F>{} : a) : tanh(a);  // NaN < 0 is false, so NaN stays
}

// f'(a) times a gradient, from h = f(a).
template <class F> static inline Vec<F> through(Vec<F> grad, Vec<F> h, bool relu) {
  return relu ? (h <= F(0) ? Vec<F>{} : grad) : grad * (F(1) - h * h);
}

// Rows, `stride` apart, with those that are reset zeroed, in `scratch`, or the rows themselves if
// none are.
template <class F>
static const F *without_reset(const F *rows, int64_t stride, int64_t n, int width, const uint8_t *resets,
                              F *scratch) {
  bool any = false;
  for (int64_t r = 0; resets && r < n; r++) any |= resets[r];
  if (!any) return rows;
  for (int64_t r = 0; r < n; r++) {
    if (resets[r])
      std::memset(scratch + r * stride, 0, width * sizeof(F));
    else
      std::memcpy(scratch + r * stride, rows + r * stride, width * sizeof(F));
  }
  return scratch;
}

// Calls visit(row, column, lanes that count) for every vector of `rows` rows of width H.
template <class F, class Visit> static inline void each_vector(int rows, int H, Visit visit) {
  for (int row = 0; row < rows; row++)
    for (int column = 0; column < H; column += lanes<F>)
      visit(row, column, H - column < lanes<F> ? H - column : lanes<F>);
}

template <class F>
static bool elman_forward(const Sequence &s, Share share, int I, int H, bool relu, const Elman<F> &net) {
  Panels<F> panels(net.W, net.W ? H : 0, net.W ? H : 0, 1, H);  // h Wᵀ
  Input<F> input(s, share, I, H, net);
  F *scratch = static_cast<F *>(take(share.rows() * H * sizeof(F)));
  if (!panels.ready() || !input.ready() || !scratch) return give(scratch), false;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i);
    input.project(i, net.h);
    auto put = [&](int64_t at, int row, int column, Vec<F> sum, int n) {
      at += (int64_t)row * H + column;
      store<F>(net.h + at, activate<F>(load<F>(net.p + at, n) + sum, relu), n);
    };
    if (!net.W) {
      int rows = int(s.end_of(share, t) - share.first);
      each_vector<F>(rows, H, [&](int row, int column, int n) {
        put((s.start_of(t) + share.first) * H, row, column, Vec<F>{}, n);
      });
      continue;
    }
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      int64_t now = (s.start_of(t) + from) * H;
      const F *last = before < 0 ? net.h0 + from * H : net.h + (s.start_of(before) + from) * H;
      const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
      last = without_reset(last, H, to - from, H, resets, scratch);
      product(last, H, int(to - from), panels, [&](int row, int column, Vec<F> sum, int n) {
        put(now, row, column, sum, n);
      });
    });
  }
  give(scratch);
  return true;
}

// With δᵗ = ∂L/∂pᵗ = f'(aᵗ) ∂L/∂hᵗ, where ∂L/∂hᵗ is what came from above plus Wᵀ δᵗ⁺¹, the gradients
// are Σ δᵗ hᵗ⁻¹ᵀ of W, Σ δᵗ xᵗᵀ of U, Σ δᵗ of b, Uᵀ δᵗ of xᵗ and Wᵀ δ¹ of h⁰.
template <class F>
static bool elman_backward(const Sequence &s, Share share, int I, int H, bool relu, const Elman<F> &net,
                           const ElmanGradients<F> &grad) {
  Panels<F> panels(net.W, net.W ? H : 0, net.W ? H : 0, H, 1);  // δ W
  Deltas<F> deltas(H, share.rows());
  InputGradients<F> of_input(I, net, grad, deltas);
  StateGradients<F> of_state(H, grad.W, nullptr, deltas);
  F *scratch = static_cast<F *>(take(share.rows() * deltas.stride * sizeof(F)));
  if (!panels.ready() || !deltas.ready() || !of_input.ready() || !of_state.ready() || !scratch)
    return give(scratch), false;
  Sequence back = s.backward();
  auto send_back = [&](int64_t t, int64_t from, int64_t to, auto finish) {  // the latest step's, t
    const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
    const F *delta = without_reset(deltas.row(from - share.first), deltas.stride, to - from, H, resets, scratch);
    product(delta, deltas.stride, int(to - from), panels, finish);
  };
  auto use = [&] {
    of_input.add(deltas);
    of_state.add(deltas);
    deltas.clear();
  };
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = back.nth(i), n = s.end_of(share, t) - share.first;
    if (!deltas.has_room_for(n)) use();
    F *now = deltas.rows + deltas.count * deltas.stride;
    // Seen backward in time, the step before t is the one that t's state went into.
    stretches(back, share, t, [&](int64_t from, int64_t to, int64_t after) {
      int64_t base = (s.start_of(t) + from) * H;
      F *rows = now + (from - share.first) * deltas.stride;
      auto finish = [&](int row, int column, Vec<F> sum, int n) {
        int64_t at = base + (int64_t)row * H + column;
        Vec<F> delta = through<F>(load<F>(grad.h + at, n) + sum, load<F>(net.h + at, n), relu);
        store<F>(rows + row * deltas.stride + column, delta, n);
        if (grad.p) store<F>(grad.p + at, delta, n);
      };
      if (after >= 0 && net.W) return send_back(after, from, to, finish);
      each_vector<F>(int(to - from), H, [&](int row, int column, int n) {
        finish(row, column, grad.last ? load<F>(grad.last + (from + row) * H + column, n) : Vec<F>{}, n);
      });
    });
    deltas.begin(s, share, t, H, net.h, net.h0);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      if (before >= 0 || !net.W) return;
      send_back(t, from, to, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(grad.h0 + (from + row) * H + column, sum, n);
      });
    });
  }
  use();
  of_input.finish();
  of_state.finish();
  give(scratch);
  return true;
}

}  // namespace BPTT_ISA
