// The gated recurrent unit over a whole sequence, and its gradient. The twin of kernel/reference.py:
// (aᵣ, a_z, aₙ) = c + W h, r = σ(pᵣ + aᵣ), z = σ(p_z + a_z), n = tanh(pₙ + r aₙ), h ← n + z (h − n).
#pragma once

#include "elman.hpp"

namespace BPTT_ISA {

template <class F>
static bool gru_forward(const Sequence &s, Share share, int I, int H, const Gru<F> &net) {
  Panels<F> panels(net.W, H, 3 * H, 1, H);
  Input<F> input(s, share, I, 3 * H, net);
  F *scratch = static_cast<F *>(take(share.rows() * 4 * H * sizeof(F)));
  if (!panels.ready() || !input.ready() || !scratch) return give(scratch), false;
  F *a = scratch + share.rows() * H;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i);
    input.project(i, net.gates);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      const F *last = before < 0 ? net.h0 + from * H : net.h + (s.start_of(before) + from) * H;
      const uint8_t *resets = s.resets ? s.resets + s.start_of(t) + from : nullptr;
      last = without_reset(last, H, to - from, H, resets, scratch);
      product(last, H, int(to - from), panels, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(a + (int64_t)row * 3 * H + column, sum + load<F>(net.c + column, n), n);
      });
      for (int64_t row = 0; row < to - from; row++) {
        int64_t at = s.start_of(t) + from + row;
        const F *in = net.p + at * 3 * H;
        F *out = net.gates + at * 3 * H;
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
          store<F>(net.a_n + at * H + c, an, count);
          store<F>(net.h + at * H + c, n + z * (load<F>(last + row * H + c, count) - n), count);
        }
      }
    });
  }
  give(scratch);
  return true;
}

template <class F>
static bool gru_backward(const Sequence &s, Share share, int I, int H, const Gru<F> &net,
                         const GruGradients<F> &grad) {
  Panels<F> panels(net.W, 3 * H, H, H, 1);
  Deltas<F> of_p(3 * H, share.rows()), of_a(3 * H, share.rows());  // the same but for the last gate's
  InputGradients<F> of_input(I, net, grad, of_p);
  StateGradients<F> of_state(H, grad.W, grad.c, of_a);
  // What reached h through the gate z, to which goes what comes through W.
  F *past_z = static_cast<F *>(take(share.rows() * H * sizeof(F)));
  if (!panels.ready() || !of_p.ready() || !of_a.ready() || !of_input.ready() || !of_state.ready() || !past_z)
    return give(past_z), false;
  Sequence back = s.backward();
  auto use = [&] {
    of_input.add(of_p);
    of_state.add(of_a);
    of_p.clear();
    of_a.clear();
  };
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = back.nth(i), n = s.end_of(share, t) - share.first;
    if (!of_p.has_room_for(n)) use();
    F *p_rows = of_p.rows + of_p.count * of_p.stride, *a_rows = of_a.rows + of_a.count * of_a.stride;
    int64_t start = s.start_of(t), before = s.before(t), old = s.rows_at(before);
    // Row r of the batch gets `sum` from the steps after t.
    auto one = [&](int64_t r, int c, Vec<F> sum, int count) {
      int64_t at = start + r, mine = r - share.first;
      bool reset = s.resets && s.resets[at];
      const F *g = net.gates + at * 3 * H + c;
      Vec<F> rr = load<F>(g, count), z = load<F>(g + H, count), n = load<F>(g + 2 * H, count);
      const F *previous = r < old ? net.h + (s.start_of(before) + r) * H : net.h0 + r * H;
      Vec<F> last = reset ? Vec<F>{} : load<F>(previous + c, count);
      Vec<F> into = load<F>(grad.h + at * H + c, count) + sum;
      Vec<F> grad_n = into * (F(1) - z) * (F(1) - n * n);
      Vec<F> grad_z = into * (last - n) * z * (F(1) - z);
      Vec<F> grad_r = grad_n * load<F>(net.a_n + at * H + c, count) * rr * (F(1) - rr);
      Vec<F> by_p[3] = {grad_r, grad_z, grad_n}, by_a[3] = {grad_r, grad_z, grad_n * rr};
      for (int k = 0; k < 3; k++) {
        store<F>(p_rows + mine * of_p.stride + k * H + c, by_p[k], count);
        store<F>(a_rows + mine * of_a.stride + k * H + c, by_a[k], count);
        if (grad.p) store<F>(grad.p + (at * 3 + k) * H + c, by_p[k], count);
      }
      store<F>(past_z + mine * H + c, into * z, count);
    };
    auto send_back = [&](int64_t of, int64_t from, int64_t to, auto finish) {  // of the latest step
      const uint8_t *resets = s.resets ? s.resets + s.start_of(of) : nullptr;
      product(of_a.row(from - share.first), of_a.stride, int(to - from), panels,
              [&](int row, int c, Vec<F> sum, int count) {
                int64_t r = from + row;
                Vec<F> all = sum + load<F>(past_z + (r - share.first) * H + c, count);
                finish(r, c, resets && resets[r] ? Vec<F>{} : all, count);
              });
    };
    stretches(back, share, t, [&](int64_t from, int64_t to, int64_t after) {
      if (after >= 0) return send_back(after, from, to, one);
      for (int64_t r = from; r < to; r++)
        for (int c = 0; c < H; c += lanes<F>) {
          int count = H - c < lanes<F> ? H - c : lanes<F>;
          one(r, c, grad.last ? load<F>(grad.last + r * H + c, count) : Vec<F>{}, count);
        }
    });
    of_p.begin(s, share, t, H, net.h, net.h0);
    of_a.begin(s, share, t, H, net.h, net.h0);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t earlier) {
      if (earlier >= 0) return;
      send_back(t, from, to, [&](int64_t r, int c, Vec<F> sum, int count) {
        store<F>(grad.h0 + r * H + c, sum, count);
      });
    });
  }
  use();
  of_input.finish();
  of_state.finish();
  give(past_z);
  return true;
}

}  // namespace BPTT_ISA
