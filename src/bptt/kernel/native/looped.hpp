// tanh and relu layers with more in their loop: several delays, a leak, layer normalisation; and, on
// the way back, Ω. The twin of `looped` in kernel/reference.py:
//
//   aᵗ = b + U xᵗ + Σ_d W_d hᵗ⁻ᵈ,   ãᵗ = gain ⊙ (aᵗ − μ) / σ + shift,   hᵗ = (1 − α) ⊙ hᵗ⁻¹ + α ⊙ f(ãᵗ)
#pragma once

#include "elman.hpp"

namespace BPTT_ISA {

// Memory that is given back.
template <class F> struct Space {
  explicit Space(int64_t count) : at(static_cast<F *>(take(count * sizeof(F)))) {}
  ~Space() { give(at); }
  Space(const Space &) = delete;
  Space &operator=(const Space &) = delete;
  F *const at;
};

// Rows of `width` with room for whole vectors, the rest of which is 0 and stays so.
template <class F> struct Rows {
  Rows(int64_t count, int64_t width) : stride((width + lanes<F> - 1) / lanes<F> * lanes<F>), space(count * stride) {
    if (space.at) std::memset(space.at, 0, count * stride * sizeof(F));
  }
  bool ready() const { return space.at != nullptr; }
  F *row(int64_t r) const { return space.at + r * stride; }
  const int64_t stride;
  const Space<F> space;
};

template <class F> static inline void add(F *to, const F *from, int count) {
  each_vector<F>(1, count, [&](int, int c, int n) { store<F>(to + c, load<F>(to + c, n) + load<F>(from + c, n), n); });
}

// Where hᵗ⁻ᵈ of a sequence lies, seen from its i-th step: at step `order`, counted as i is; or, where
// order is −1, h⁻ʲ of what the sequence began with, with j = past; or nowhere, if a reset lies between.
struct Source {
  int64_t order, past;
  bool cut;
};

template <class F> class Past {
 public:
  Past(const Sequence &s, Share share, int H, const Looped<F> &net)
      : s(s), share(share), H(H), net(net), begins(share.rows()) {
    if (!begins.at) return;
    int64_t t = s.T;
    for (int64_t r = share.first; r < share.last; r++) {
      while (t > 0 && s.rows_at(t - 1) <= r) t--;
      begins.at[r - share.first] = s.reversed ? s.T - t : 0;
    }
  }

  bool ready() const { return begins.at != nullptr; }
  int64_t row_at(int64_t i, int64_t r) const { return s.start_of(s.nth(i)) + r; }

  Source of(int64_t i, int64_t r, int d) const {
    int64_t age = i - begins.at[r - share.first];
    for (int64_t k = 0; s.resets && k < d && k <= age; k++)
      if (s.resets[row_at(i - k, r)]) return {-1, 0, true};
    return d <= age ? Source{i - d, 0, false} : Source{-1, d - 1 - age, false};
  }
  // The state there, or null for zeros.
  const F *state(int64_t i, int64_t r, int d) const {
    Source from = of(i, r, d);
    if (from.cut) return nullptr;
    return from.order >= 0 ? net.h + row_at(from.order, r) * H : net.h0 + (from.past * s.B + r) * H;
  }
  // What the step's W meets: the states of all delays, one after the other.
  void gather(int64_t i, int64_t r, const Delays &delays, F *to) const {
    for (int k = 0; k < delays.count; k++) {
      const F *from = state(i, r, delays.d[k]);
      if (from)
        std::memcpy(to + (int64_t)k * H, from, H * sizeof(F));
      else
        std::memset(to + (int64_t)k * H, 0, H * sizeof(F));
    }
  }

 private:
  const Sequence &s;
  const Share share;
  const int H;
  const Looped<F> &net;
  const Space<int64_t> begins;  // which step, counted as i is, is each row's first
};

// ã from a, in a row of H; what was normalised stays in `normal`, and 1/σ is returned.
template <class F> static F normalise(F *normal, int H) {
  double mean = 0, square = 0;
  for (int c = 0; c < H; c++) mean += normal[c];
  mean /= H;
  for (int c = 0; c < H; c++) square += (normal[c] - mean) * (normal[c] - mean);
  F by_spread = F(1 / __builtin_sqrt(square / H + norm_epsilon));
  for (int c = 0; c < H; c++) normal[c] = F(normal[c] - mean) * by_spread;
  return by_spread;
}

template <class F>
static bool looped_forward(const Sequence &s, Share share, int I, int H, bool relu, const Delays &delays,
                           const Looped<F> &net) {
  const int K = delays.count * H;
  Panels<F> panels(net.W, K, H, 1, K);  // z Wᵀ
  Input<F> input(s, share, I, H, net);
  Past<F> past(s, share, H, net);
  Space<F> space(share.rows() * K);
  F *const z = space.at;
  if (!panels.ready() || !input.ready() || !past.ready() || !z) return false;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i), rows = s.end_of(share, t) - share.first;
    int64_t first = s.start_of(t) + share.first;
    input.project(i, net.h);
    for (int64_t r = 0; r < rows; r++) past.gather(i, share.first + r, delays, z + r * K);
    auto leave = [&](int64_t at, int64_t row, int column, Vec<F> a, int n) {
      Vec<F> fresh = activate<F>(a, relu);
      if (net.leak) {
        store<F>(net.fresh + at, fresh, n);
        Vec<F> last = load<F>(z + row * K + column, n);
        fresh = last + load<F>(net.leak + column, n) * (fresh - last);
      }
      store<F>(net.h + at, fresh, n);
    };
    product(z, K, int(rows), panels, [&](int row, int column, Vec<F> sum, int n) {
      int64_t at = (first + row) * H + column;
      Vec<F> a = load<F>(net.p + at, n) + sum;
      net.gain ? store<F>(net.normal + at, a, n) : leave(at, row, column, a, n);
    });
    for (int64_t r = 0; net.gain && r < rows; r++) {
      int64_t base = (first + r) * H;
      net.by_spread[first + r] = normalise(net.normal + base, H);
      each_vector<F>(1, H, [&](int, int c, int n) {
        Vec<F> a = load<F>(net.gain + c, n) * load<F>(net.normal + base + c, n) + load<F>(net.shift + c, n);
        leave(base + c, r, c, a, n);
      });
    }
  }
  return true;
}

template <class F> static inline F total(Vec<F> values) {
  F sum = 0;
  for (int lane = 0; lane < lanes<F>; lane++) sum += values[lane];
  return sum;
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

// With δᵗ = ∂L/∂aᵗ, what is pushed back from step t to step t − d is W_dᵀ δᵗ; and past f, by way of the
// leak, (1 − α) ⊙ ∂L/∂hᵗ to step t − 1.
template <class F>
static bool looped_backward(const Sequence &s, Share share, int I, int H, bool relu, const Delays &delays,
                            F omega, const Looped<F> &net, const LoopedGradients<F> &grad) {
  const int K = delays.count * H, farthest = delays.d[delays.count - 1];
  const int64_t most = share.rows();
  Panels<F> panels(net.W, H, K, K, 1);  // δ W
  Deltas<F> deltas(H, most);
  InputGradients<F> of_input(I, net, grad, deltas);
  StateGradients<F> of_state(K, grad.W, nullptr, deltas);
  Past<F> past(s, share, H, net);
  // z: what W met, of every row that is gathered. pushed: what a step's rows push back, of all delays.
  // arriving: what was pushed to steps before, a slot for each of as many as the farthest delay.
  Rows<F> z(deltas.most, K), pushed(most, K), arriving((farthest + 1) * most, H);
  if (!panels.ready() || !deltas.ready() || !of_input.ready() || !of_state.ready() || !past.ready() ||
      !z.ready() || !pushed.ready() || !arriving.ready())
    return false;
  F *const sums[] = {grad.gain, grad.shift, grad.leak};
  for (F *sum : sums)
    if (sum) std::memset(sum, 0, H * sizeof(F));
  double found = 0;
  auto slot = [&](int64_t i, int64_t r) {
    return arriving.row(i % (farthest + 1) * most + r - share.first);
  };
  auto aim = [&](int64_t i, int64_t r, int d) -> F * {
    Source from = past.of(i, r, d);
    if (from.cut) return nullptr;
    return from.order >= 0 ? slot(from.order, r) : grad.h0 + (from.past * s.B + r) * H;
  };
  auto use = [&] {
    of_input.add(deltas);
    of_state.add(deltas);
    deltas.clear();
  };
  for (int64_t i = s.T - 1; i >= 0; i--) {
    int64_t t = s.nth(i), rows = s.end_of(share, t) - share.first, first = s.start_of(t) + share.first;
    if (!deltas.has_room_for(rows)) use();
    const int64_t z_from = deltas.count;
    deltas.begin(s, share, t, [&](int64_t r) { return z.row(z_from + r); });
    for (int64_t r = 0; r < rows; r++) {
      int64_t base = (first + r) * H;
      F *meets = z.row(z_from + r);
      past.gather(i, share.first + r, delays, meets);
      F *arrived = slot(i, share.first + r), *delta = deltas.row(r);
      F *aside = net.leak ? aim(i, share.first + r, 1) : nullptr;
      Vec<F> sum = {}, along = {};
      each_vector<F>(1, H, [&](int, int c, int n) {
        Vec<F> into = load<F>(grad.h + base + c, n) + load<F>(arrived + c, lanes<F>);
        Vec<F> fresh = load<F>((net.leak ? net.fresh : net.h) + base + c, n);
        store<F>(arrived + c, Vec<F>{}, lanes<F>);
        if (net.leak) {
          Vec<F> leak = load<F>(net.leak + c, n), by_leak = into * (fresh - load<F>(meets + c, n));
          if (grad.leak) store<F>(grad.leak + c, load<F>(grad.leak + c, n) + by_leak, n);
          if (aside) store<F>(aside + c, load<F>(aside + c, n) + into * (F(1) - leak), n);
          into *= leak;
        }
        Vec<F> value = through<F>(into, fresh, relu);
        if (net.gain) {
          Vec<F> normal = load<F>(net.normal + base + c, n);
          if (grad.gain) store<F>(grad.gain + c, load<F>(grad.gain + c, n) + value * normal, n);
          if (grad.shift) store<F>(grad.shift + c, load<F>(grad.shift + c, n) + value, n);
          value *= load<F>(net.gain + c, n);
          sum += value;
          along += value * normal;
        }
        store<F>(delta + c, value, lanes<F>);  // a row of Deltas has room for it
      });
      F mean = net.gain ? total<F>(sum) / H : 0, slope = net.gain ? total<F>(along) / H : 0;
      each_vector<F>(net.gain ? 1 : 0, H, [&](int, int c, int n) {
        Vec<F> value = load<F>(delta + c, n) - mean - load<F>(net.normal + base + c, n) * slope;
        store<F>(delta + c, value * net.by_spread[first + r], n);
      });
      if (grad.p) std::memcpy(grad.p + base, delta, H * sizeof(F));
    }
    product(deltas.row(0), deltas.stride, int(rows), panels, [&](int row, int column, Vec<F> sum, int) {
      store<F>(pushed.row(row) + column, sum, lanes<F>);
    });
    for (int64_t r = 0; r < rows; r++) {
      F *mine = pushed.row(r);
      for (int k = 0; k < delays.count; k++)
        if (F *to = aim(i, share.first + r, delays.d[k])) add(to, mine + (int64_t)k * H, H);
      if (!(omega > 0)) continue;
      Source from = past.of(i, share.first + r, 1);
      if (!from.cut && from.order >= 0)
        found += add_omega<F>(deltas.row(r), mine, z.row(z_from + r), z.stride, relu, omega);
    }
  }
  use();
  of_input.finish();
  of_state.finish();
  if (grad.omega) *grad.omega = F(found);
  return true;
}

}  // namespace BPTT_ISA
