// What stands on both sides of a recurrence: the projection of its input, before; and the gradients
// of all that the rows of ∂L/∂p and ∂L/∂a were made of, after.
#pragma once

#include "outer.hpp"
#include "program.hpp"

namespace BPTT_ISA {

// pᵗ = b + U xᵗ, of width G, for a share of the batch, in memory for the steps at hand alone. xᵗ is a row
// of x, (N, I), or stands for a token, (N), from 0 to I − 1, or −1 for none; b = b_ih + b_hh, of which either
// may be null. Where x is given U is (G, I), where tokens are it is (I, G); else p is given.
template <class F> class Input {
 public:
  Input(const Sequence &s, Share share, int I, int G, const Run<F> &net)
      : s(s), share(share), I(I), G(G), x(net.x), tokens(net.tokens), U(net.U), p(net.p),
        projects(net.x || net.tokens), is_packed(net.x && s.rows_in_all() >= rows_to_pack<F>(I, G)),
        panels(net.x ? I : 0, net.x ? G : 0, is_packed) {
    if (is_packed && panels.ready()) panels.pack(U, 0, I, 0, G, 1, I);
    int64_t rows = enough_rows + s.B > share.rows() ? enough_rows + s.B : share.rows();
    if (!projects) return;
    projected = static_cast<F *>(take((rows + 1) * G * sizeof(F)));
    if (!projected) return;
    bias = projected + rows * G;
    for (int g = 0; g < G; g++) bias[g] = (net.b_ih ? net.b_ih[g] : F(0)) + (net.b_hh ? net.b_hh[g] : F(0));
  }
  ~Input() { give(projected); }
  Input(const Input &) = delete;
  Input &operator=(const Input &) = delete;

  bool ready() const { return panels.ready() && (projected || !projects); }

  // Where a row of p lies, of the step at hand.
  const F *row(int64_t at) const { return projects ? projected + (at - first_row) * G : p + at * G; }

  // Sees to it that the i-th step's rows of p are there, if they are not given as such. Where steps'
  // rows lie side by side it computes many, so that small batches, too, fill the product.
  void project(int64_t i) {
    if (!projects || i < done) return;
    int64_t steps = 1;
    if (!s.rows && share.rows() == s.B) {
      steps = (enough_rows + s.B - 1) / s.B;
      if (steps > s.T - i) steps = s.T - i;
    }
    done = i + steps;
    int64_t t = s.nth(s.reversed ? done - 1 : i), first = s.start_of(t) + share.first;
    int64_t rows = steps > 1 ? steps * s.B : s.end_of(share, t) - share.first;
    first_row = first;
    auto put = [&](int64_t row, int column, Vec<F> value, int n) {
      store<F>(projected + row * G + column, value + load<F>(bias + column, n), n);
    };
    if (is_packed) return product(x + first * I, I, int(rows), panels, put);
    if (x) return product(x + first * I, I, int(rows), Matrix<F>{U, I, G, 1, I}, 0, put);
    for (int64_t row = 0; row < rows; row++)
      for (int column = 0; column < G; column += lanes<F>) {
        int n = G - column < lanes<F> ? G - column : lanes<F>;
        int64_t token = tokens[first + row];
        put(row, column, token < 0 ? Vec<F>{} : load<F>(U + token * G + column, n), n);
      }
  }

 private:
  const Sequence &s;
  const Share share;
  const int I, G;
  const F *x;
  const int64_t *tokens;
  const F *U, *p;
  const bool projects, is_packed;
  Panels<F> panels;
  F *projected = nullptr, *bias = nullptr;
  int64_t done = 0, first_row = 0;
};

// Rows of ∂L/∂p or ∂L/∂a, gathered step after step, with where each lies and which state it was
// computed from. The latest step's rows stay in place while the next step's are written.
template <class F> class Deltas {
 public:
  Deltas(int width, int64_t rows_of_a_step)
      : width(width),
        most(3 * rows_of_a_step > enough_rows ? 3 * rows_of_a_step : enough_rows),
        // An odd number of cache lines, so that a column of rows does not crowd into a few sets.
        stride((((width * sizeof(F) + 63) / 64) | 1) * 64 / sizeof(F)),
        rows(static_cast<F *>(take(most * stride * sizeof(F)))),
        at(static_cast<int64_t *>(take(most * sizeof(int64_t)))),
        before(static_cast<const F **>(take(most * sizeof(F *)))) {}
  ~Deltas() { give(rows), give(at), give(before); }
  Deltas(const Deltas &) = delete;
  static void *operator new(size_t, void *place) { return place; }
  Deltas &operator=(const Deltas &) = delete;

  bool ready() const { return rows && at && before; }
  bool has_room_for(int64_t n) const { return count + n <= most; }
  void clear() { count = 0; }
  F *row(int64_t r) { return rows + (latest + r) * stride; }  // of the latest step

  // Begins the share's rows at step t; met(r) is the address of what W met there, for the share's r-th
  // row, or null for zeros.
  F *next(int64_t r) { return rows + (count + r) * stride; }  // of the step that is to begin
  template <class Met> void begin(const Sequence &s, Share share, int64_t t, Met met) {
    latest = count;
    for (int64_t r = share.first; r < s.end_of(share, t); r++) {
      at[count] = s.start_of(t) + r;
      before[count++] = met(r - share.first);
    }
  }
  // Adds columns of all rows, from one on, to b, (columns).
  void add_to(F *b, int column, int columns) const {
    constexpr int L = lanes<F>;
    const F *from = rows + column;
    for (; columns >= 4 * L; b += 4 * L, from += 4 * L, columns -= 4 * L) add_vectors<4>(b, from, L);
    for (; columns > 0; b += L, from += L, columns -= L) add_vectors<1>(b, from, columns < L ? columns : L);
  }
  // Adds columns of one row, from one on, to b, (columns).
  void add_row_to(F *b, int64_t c, int column, int columns) const {
    const F *from = rows + c * stride + column;
    for (int at = 0; at < columns; at += lanes<F>) {
      int n = columns - at < lanes<F> ? columns - at : lanes<F>;
      store<F>(b + at, load<F>(b + at, n) + load<F>(from + at, n), n);
    }
  }

  const int width;
  const int64_t most, stride;
  F *const rows;
  int64_t *const at;
  const F **const before;
  int64_t count = 0;

 private:
  template <int V> void add_vectors(F *b, const F *from, int n) const {
    constexpr int L = lanes<F>;
    Vec<F> sums[V];
    for (int v = 0; v < V; v++) sums[v] = load<F>(b + v * L, n);
    for (int64_t c = 0; c < count; c++)
      for (int v = 0; v < V; v++) sums[v] += load<F>(from + c * stride + v * L, n);
    for (int v = 0; v < V; v++) store<F>(b + v * L, sums[v], n);
  }

  int64_t latest = 0;
};

// The gradients of U, b and x from rows of ∂L/∂p, where p = b + U x; each null if not wanted.
template <class F> class InputGradients {
 public:
  template <class Net, class Gradients>
  InputGradients(int I, const Net &net, const Gradients &grad, const Deltas<F> &deltas)
      : I(I), x(net.x), tokens(net.tokens), grad_x(grad.x), grad_U(grad.U), grad_b(grad.b),
        back(net.U, grad.x ? deltas.width : 0, grad.x ? I : 0, I, 1),
        outer(grad.U && x ? deltas.width : 0, grad.U && x ? I : 0, deltas.most) {
    if (grad_b) std::memset(grad_b, 0, deltas.width * sizeof(F));
    if (grad_U && tokens) std::memset(grad_U, 0, (size_t)I * deltas.width * sizeof(F));
  }

  bool ready() const { return back.ready() && outer.ready(); }

  void add(const Deltas<F> &deltas) {
    if (grad_b) deltas.add_to(grad_b, 0, deltas.width);
    if (grad_U && x)
      outer.add(deltas.rows, deltas.stride, deltas.count, [&](int64_t c) { return x + deltas.at[c] * I; });
    if (grad_U && tokens)
      for (int64_t c = 0; c < deltas.count; c++) {
        int64_t token = tokens[deltas.at[c]];
        if (token >= 0) deltas.add_row_to(grad_U + token * deltas.width, c, 0, deltas.width);
      }
    if (grad_x)
      product(deltas.rows, deltas.stride, int(deltas.count), back, [&](int row, int column, Vec<F> sum, int n) {
        store<F>(grad_x + deltas.at[row] * I + column, sum, n);
      });
  }
  void finish() {
    if (grad_U && x) outer.write(grad_U);
  }

 private:
  const int I;
  const F *x;
  const int64_t *tokens;
  F *grad_x, *grad_U, *grad_b;
  Panels<F> back;
  Outer<F> outer;
};

}  // namespace BPTT_ISA
