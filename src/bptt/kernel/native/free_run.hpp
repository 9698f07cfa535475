// The free run of a stack of tanh or relu layers: step, read-out, sample, feed back.
#pragma once

#include "product.hpp"
#include "table.hpp"

namespace BPTT_ISA {

template <class F> static inline Vec<F> activate(Vec<F> a, bool relu) {
  return relu ? (a < F(0) ? Vec<F>{} : a) : tanh(a);  // NaN < 0 is false, so NaN stays
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

// e^-z for z >= 0; what lies below e^-40 is too small to matter beside 1.
template <class F> static inline Vec<F> decay(Vec<F> z) {
  auto e = exponential(min<F>(z, F(40)));
  return F(1) / (e.power + e.power * e.p);
}

template <class F> class FreeRunner {
 public:
  FreeRunner(const FreeSizes &sizes, Share share, bool relu, const FreeLayer<F> *layers, const Free<F> &net)
      : s(sizes), share(share), rows(int(share.rows())), relu(relu), layers(layers), net(net),
        is_tokens(s.kind == CATEGORICAL), back(net.R && !is_tokens ? net.R : nullptr, back_depth(), s.H * (back_depth() > 0), 1, s.Y),
        readout(net.V, s.H, s.O, 1, s.H), up(new_panels()), around(new_panels()),
        space(static_cast<F *>(take(bytes()))) {
    for (int k = 0; k < s.layers && up && around; k++) {
      const FreeLayer<F> &layer = layers[k];
      up[k] = make_panels(layer.U);
      around[k] = make_panels(layer.W);
    }
    a = space;
    state = a + (int64_t)rows * s.H;
    scratch = state + (int64_t)rows * s.H * s.layers;
    outputs = scratch + (int64_t)rows * s.H;
    fed = outputs + (int64_t)rows * s.O;
  }
  ~FreeRunner() {
    for (int k = 0; k < s.layers; k++) {
      if (up) destroy(up[k]);
      if (around) destroy(around[k]);
    }
    give(up), give(around), give(space);
  }
  FreeRunner(const FreeRunner &) = delete;
  FreeRunner &operator=(const FreeRunner &) = delete;

  bool ready() const {
    bool all = up && around && space && back.ready() && readout.ready();
    for (int k = 0; all && k < s.layers; k++)
      all = (!layers[k].U || (up[k] && up[k]->ready())) && (!layers[k].W || (around[k] && around[k]->ready()));
    return all;
  }

  void run() {
    for (int k = 0; k < s.layers; k++)
      std::memcpy(of_layer(k), net.h + (k * s.B + share.first) * s.H, (size_t)rows * s.H * sizeof(F));
    for (int64_t t = 0; t < s.T; t++) {
      enter(t);
      for (int k = 0; k < s.layers; k++) step(t, k);
      product(of_layer(s.layers - 1), s.H, rows, readout, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(outputs + (int64_t)row * s.O + column, sum + load<F>(net.c + column, n), n);
      });
      for (int row = 0; row < rows; row++) say(t, row);
    }
    for (int k = 0; k < s.layers; k++)
      std::memcpy(net.h + (k * s.B + share.first) * s.H, of_layer(k), (size_t)rows * s.H * sizeof(F));
  }

 private:
  int back_depth() const { return net.R && !is_tokens ? s.Y : 0; }
  size_t bytes() const {
    size_t numbers = (size_t)rows * (s.H * (s.layers + 2) + s.O + s.Y);
    return (numbers * sizeof(F) + 64) / 64 * 64 + 64;
  }
  Panels<F> **new_panels() const {
    void *pointers = take(s.layers * sizeof(Panels<F> *));
    return static_cast<Panels<F> **>(pointers ? std::memset(pointers, 0, s.layers * sizeof(Panels<F> *)) : nullptr);
  }
  Panels<F> *make_panels(const F *matrix) const {  // of an (H, H) matrix M, for h Mᵀ
    void *memory = matrix ? take(sizeof(Panels<F>)) : nullptr;
    return memory ? new (memory) Panels<F>(matrix, s.H, s.H, 1, s.H) : nullptr;
  }
  static void destroy(Panels<F> *panels) {
    if (panels) panels->~Panels<F>();
    give(panels);
  }
  F *of_layer(int k) const { return state + (int64_t)k * rows * s.H; }
  int64_t at(int64_t t, int row) const { return t * s.B + share.first + row; }

  // a ← b + U xᵗ + R yᵗ⁻¹, where yᵗ⁻¹ is nothing after a reset, else what is forced, else our own.
  void enter(int64_t t) {
    auto p = [&](int row) { return net.p + (s.each_p ? at(t, row) * s.H : 0); };
    for (int row = 0; row < rows && (!net.R || is_tokens); row++) {
      int64_t token = net.R ? previous(t, row, net.given_tokens, net.first_tokens, net.own_tokens) : -1;
      const F *column = token < 0 ? nullptr : net.R + token * s.H;
      for (int i = 0; i < s.H; i += lanes<F>) {
        int n = s.H - i < lanes<F> ? s.H - i : lanes<F>;
        Vec<F> sum = load<F>(p(row) + i, n);
        if (column) sum += load<F>(column + i, n);
        store<F>(a + (int64_t)row * s.H + i, sum, n);
      }
    }
    if (!net.R || is_tokens) return;
    for (int row = 0; row < rows; row++) {
      F *to = fed + (int64_t)row * s.Y;
      if (net.resets && net.resets[at(t, row)])
        std::memset(to, 0, s.Y * sizeof(F));
      else
        std::memcpy(to, source(t, row, net.given, net.first, net.own, s.Y), s.Y * sizeof(F));
    }
    product(fed, s.Y, rows, back, [&](int row, int column, Vec<F> sum, int n) {
      store<F>(a + (int64_t)row * s.H + column, sum + load<F>(p(row) + column, n), n);
    });
  }

  template <class Y>
  const Y *source(int64_t t, int row, const Y *given, const Y *first, const Y *own, int width) const {
    if (net.forced && net.forced[at(t, row)]) return given + at(t, row) * width;
    return t == 0 ? first + (share.first + row) * width : own + at(t - 1, row) * width;
  }
  int64_t previous(int64_t t, int row, const int64_t *given, const int64_t *first, const int64_t *own) const {
    if (net.resets && net.resets[at(t, row)]) return -1;
    return *source(t, row, given, first, own, 1);
  }

  // h ← f(a + W h) in layer k, where a of the layers above the first is b + U h of the one below.
  void step(int64_t t, int k) {
    F *h = of_layer(k);
    if (k > 0)
      product(of_layer(k - 1), s.H, rows, *up[k], [&](int row, int column, Vec<F> sum, int n) {
        store<F>(a + (int64_t)row * s.H + column, sum + load<F>(layers[k].b + column, n), n);
      });
    auto put = [&](int row, int column, Vec<F> sum, int n) {
      int64_t i = (int64_t)row * s.H + column;
      store<F>(a + i, activate<F>(load<F>(a + i, n) + sum, relu), n);
    };
    if (layers[k].W) {
      const uint8_t *resets = net.resets ? net.resets + at(t, 0) : nullptr;
      product(without_reset<F>(h, s.H, rows, s.H, resets, scratch), s.H, rows, *around[k], put);
    } else {
      for (int row = 0; row < rows; row++)
        for (int column = 0; column < s.H; column += lanes<F>)
          put(row, column, Vec<F>{}, s.H - column < lanes<F> ? s.H - column : lanes<F>);
    }
    std::memcpy(h, a, (size_t)rows * s.H * sizeof(F));
  }

  void say(int64_t t, int row) {
    F *o = outputs + (int64_t)row * s.O;
    if (is_tokens) {
      net.own_tokens[at(t, row)] = symbol(o, net.noise[at(t, row)]);
      return;
    }
    const F *noise = net.noise + at(t, row) * s.O;
    F *to = net.own + at(t, row) * s.O;
    for (int i = 0; i < s.O; i += lanes<F>) {
      int n = s.O - i < lanes<F> ? s.O - i : lanes<F>;
      Vec<F> z = load<F>(noise + i, n), mean = load<F>(o + i, n);
      if (s.kind == GAUSSIAN)
        mean += z * load<F>(net.scale + i, n);
      else if (s.is_likeliest)
        mean = mean > F(0) ? splat<F>(F(1)) : Vec<F>{};
      else
        mean = z < sigmoid<F>(mean * F(s.by_temperature)) ? splat<F>(F(1)) : Vec<F>{};
      store<F>(to + i, mean, n);
    }
  }

  // The first symbol at which the summed softmax(o / temperature) exceeds u, or the likeliest.
  int64_t symbol(F *o, F u) const {
    int best = 0;
    for (int i = 1; i < s.O; i++)
      if (o[i] > o[best]) best = i;
    if (s.is_likeliest) return best;
    F most = o[best], total = 0;
    for (int i = 0; i < s.O; i += lanes<F>) {
      int n = s.O - i < lanes<F> ? s.O - i : lanes<F>;
      store<F>(o + i, decay<F>((most - load<F>(o + i, n)) * F(s.by_temperature)), n);
    }
    for (int i = 0; i < s.O; i++) total += o[i];
    F sum = 0, target = u * total;
    for (int i = 0; i < s.O; i++)
      if ((sum += o[i]) > target) return i;
    return s.O - 1;
  }

  const FreeSizes &s;
  const Share share;
  const int rows;
  const bool relu;
  const FreeLayer<F> *layers;
  const Free<F> &net;
  const bool is_tokens;
  Panels<F> back, readout;
  Panels<F> **up, **around;
  F *space, *a, *state, *scratch, *outputs, *fed;
};

template <class F>
static Outcome free_run(const FreeSizes &sizes, Share share, bool relu, const FreeLayer<F> *layers, const Free<F> &net) {
  FreeRunner<F> runner(sizes, share, relu, layers, net);
  if (!runner.ready()) return NO_MEMORY;
  runner.run();
  return DONE;
}

}  // namespace BPTT_ISA
