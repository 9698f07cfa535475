// What a program's backward pass gathers over many steps: the rows whose products are the weights'
// gradients, and what goes back to earlier states.
#pragma once

#include "omega.hpp"
#include "steps.hpp"

namespace BPTT_ISA {

// For every group of products Σ δ zᵀ, and the rows of ∂L/∂p.
template <class F> class Gathered {
 public:
  // sizes: of the weights. weights: their gradients, null where none is wanted.
  Gathered(const Program &program, int64_t rows_of_a_step, List<Weight<F>> sizes, List<F *> weights)
      : program(program), sizes(sizes), weights(weights), count(program.arrays.count) {
    deltas = static_cast<Deltas<F> **>(take((count + 1) * sizeof(Deltas<F> *)));
    made = static_cast<F **>(take((count + 1) * sizeof(F *)));
    outers = static_cast<Outer<F> **>(take((program.groups.count + 1) * sizeof(Outer<F> *)));
    if (!deltas || !made || !outers) return;
    for (int a = 0; a < count; a++) deltas[a] = nullptr, made[a] = nullptr;
    for (int g = 0; g < program.groups.count; g++) outers[g] = nullptr;
    is_ready = true;
    for (int a : program.in(DELTA)) is_ready &= make(deltas[a], program.arrays[a].width, rows_of_a_step) && deltas[a]->ready();
    if (!is_ready) return;
    for (int a : program.in(DELTA)) std::memset(deltas[a]->rows, 0, deltas[a]->most * deltas[a]->stride * sizeof(F));
    for (int a : program.in(MADE))
      is_ready &= !!(made[a] = static_cast<F *>(take(most() * program.arrays[a].width * sizeof(F))));
    for (int g = 0; g < program.groups.count; g++) {
      const Group &group = program.groups[g];
      if (is_wanted(group))
        is_ready &= make(outers[g], deltas[group.deltas]->width, rows_of(group), int64_t(most())) && outers[g]->ready();
    }
  }
  ~Gathered() {
    for (int a = 0; deltas && made && outers && a < count; a++) destroy(deltas[a]), give(made[a]);
    for (int g = 0; deltas && made && outers && g < program.groups.count; g++) destroy(outers[g]);
    give(deltas), give(made), give(outers), give(met);
  }
  Gathered(const Gathered &) = delete;
  Gathered &operator=(const Gathered &) = delete;

  bool ready() const { return is_ready; }
  Deltas<F> &of_p() const { return *deltas[program.of_p]; }
  bool has_room_for(int64_t rows) const { return of_p().has_room_for(rows); }

  // Where the arrays of a step that is to begin lie, from one of the share's rows on.
  void find(Frame<F> &frame, int64_t row) const {
    for (int a : program.in(DELTA)) {
      frame.at[a] = deltas[a]->next(row);
      frame.stride[a] = frame.moves[a] = deltas[a]->stride;
    }
    for (int a : program.in(MADE)) frame.at[a] = made[a] + (of_p().count + row) * program.arrays[a].width;
  }

  // Notes the rows of the i-th step, which are there now.
  void begin(const Steps<F> &steps, int64_t i) {
    int64_t t = steps.s.nth(i);
    const int64_t first = of_p().count;
    for (const Group &group : program.groups) {
      const Array &z = program.arrays[group.z.array];
      deltas[group.deltas]->begin(steps.s, steps.share, t, [&](int64_t r) -> const F * {
        if (z.place == MADE) return made[group.z.array] + (first + r) * z.width;
        const F *row = steps.past_row(z.index, i, steps.share.first + r, z.at);
        return row ? row + group.z.column : nullptr;
      });
    }
    for (int a : program.in(DELTA))  // those of no group
      if (deltas[a]->count == first) deltas[a]->begin(steps.s, steps.share, t, [](int64_t) -> const F * { return nullptr; });
  }

  // Adds all rows to the sums, of products, of vectors and of tables' rows, and begins anew.
  void add_up() {
    for (int g = 0; g < program.groups.count; g++) {
      Deltas<F> &rows = *deltas[program.groups[g].deltas];
      if (outers[g]) outers[g]->add(rows.rows, rows.stride, rows.count, [&](int64_t c) { return rows.before[c]; });
    }
    for (const Sum &sum : program.sums)
      if (weights[sum.weight]) deltas[sum.deltas]->add_to(weights[sum.weight] + sum.at, sum.column, sum.width);
    for (const LookUp &row : program.look_ups)
      if (F *table = weights[row.weight])
        for (int64_t c = 0; c < of_p().count; c++)
          deltas[row.deltas]->add_row_to(table + int64_t(made[row.rows][c]) * sizes[row.weight].down + row.at, c, row.column,
                                         row.width);
    for (int a : program.in(DELTA)) deltas[a]->clear();
  }

  // Adds Ω's immediate gradient to that of W, by changing what δ meets in it; returns Ω of the i-th step,
  // where a row's δ and what it pushed back, Wᵀ δ, are there now.
  double read_omega(const Steps<F> &steps, int64_t i, const F *pushed, F weight, bool is_relu) {
    const Group &group = program.groups[0];
    Deltas<F> &rows = *deltas[group.deltas];
    int64_t t = steps.s.nth(i), width = program.states[0].width, size = width * sizeof(F);
    double omega = 0;
    for (int64_t r = 0; r < steps.s.end_of(steps.share, t) - steps.share.first; r++) {
      int64_t row = steps.share.first + r;
      Origin from = steps.source(i, row, 1);
      if (from.is_cut || from.order < 0) continue;
      F *z = met + (rows.count - (steps.s.end_of(steps.share, t) - steps.share.first) + r) * rows.stride;
      std::memcpy(z, steps.state_row(0, from.order, row), size);
      std::memcpy(left, pushed + row * width, size);
      omega += add_omega<F>(rows.row(r), left, z, (width + lanes<F> - 1) / lanes<F> * lanes<F>, is_relu, weight);
      rows.before[rows.count - (steps.s.end_of(steps.share, t) - steps.share.first) + r] = z;
    }
    return omega;
  }
  bool reads_omega() {
    Deltas<F> &rows = *deltas[program.groups[0].deltas];
    size_t size = (rows.most + 1) * rows.stride * sizeof(F);
    met = static_cast<F *>(take(size));
    if (!met) return false;
    std::memset(met, 0, size);
    left = met + rows.most * rows.stride;
    return true;
  }

  void write_p(F *grad_p, int64_t first, int64_t rows) const {
    for (int64_t r = 0; r < rows; r++)
      std::memcpy(grad_p + (first + r) * program.p, of_p().row(r), program.p * sizeof(F));
  }

  void finish() const {
    for (int g = 0; g < program.groups.count; g++) {
      int from = 0;
      for (const Block &block : program.blocks.of(program.groups[g].blocks)) {
        F *grad = weights[block.weight];
        int64_t rows = sizes[block.weight].rows;
        if (grad) outers[g]->add_rows(grad + block.column * rows + block.row, rows, from, from + block.columns);
        from += block.columns;
      }
    }
  }

 private:
  int64_t most() const { return of_p().most; }
  int rows_of(const Group &group) const { return program.blocks[group.blocks.first].rows; }
  bool is_wanted(const Group &group) const {
    bool any = false;
    for (const Block &block : program.blocks.of(group.blocks)) any |= weights[block.weight] != nullptr;
    return any;
  }
  template <class T, class... Arguments> static bool make(T *&at, Arguments... arguments) {
    void *memory = take(sizeof(T));
    if (memory) at = new (memory) T(arguments...);
    return memory;
  }
  template <class T> static void destroy(T *at) {
    if (at) at->~T();
    give(at);
  }

  const Program &program;
  const List<Weight<F>> sizes;
  const List<F *> weights;
  const int count;
  bool is_ready = false;
  Deltas<F> **deltas;
  F **made;
  Outer<F> **outers;
  F *met = nullptr, *left = nullptr;  // what Ω changes
};

// What arrives at the states of a step from later ones. Where a state is read one step back it lies,
// from the last step on, where the gradient of the first state belongs in the end; else in a ring of
// slots, one for each of as many steps as the farthest reading.
template <class F> class Arrivals {
 public:
  Arrivals(Steps<F> &steps, List<F *> arrived) : steps(steps), program(steps.program), arrived(arrived) {
    lay_out();
    if (!pool.take_it()) return;
    lay_out();
    for (int k = 0; k < program.states.count; k++)
      if (is_ring(k)) std::memset(rings[k], 0, numbers(k) * sizeof(F));
  }

  bool ready() const { return rings; }

  // Where it lies for the i-th step, from a row on.
  void find(int64_t i, int64_t row) {
    for (int a : program.in(ARRIVED)) {
      const Array &array = program.arrays[a];
      steps.frame.at[a] = is_ring(array.index) ? slot(array.index, i, row) : arrived[array.index] + row * array.width;
    }
  }

  // Sends what the i-th step pushed back to where it goes, past no reset.
  void push(int64_t i) {
    const Sequence &s = steps.s;
    int64_t t = s.nth(i), end = s.end_of(steps.share, t);
    for (int k = 0; k < program.states.count; k++)
      for (int64_t r = steps.share.first; (s.resets || is_ring(k)) && r < end; r++) {
        size_t size = program.states[k].width * sizeof(F);
        if (is_ring(k))
          std::memset(slot(k, i, r), 0, size);
        else if (s.resets && s.resets[steps.row_at(i, r)])
          std::memset(arrived[k] + r * program.states[k].width, 0, size);
      }
    for (int a : program.in(PUSHED)) {
      const Array &array = program.arrays[a];
      for (int64_t r = steps.share.first; r < end; r++) {
        F *to = aim(array.index, i, r, array.at);
        const F *from = steps.pushed(a, r);
        for (int c = 0; to && c < array.width; c++) to[c] += from[c];
      }
    }
  }

 private:
  bool is_ring(int k) const { return program.states[k].farthest > 1; }
  int64_t numbers(int k) const {
    const State &state = program.states[k];
    return is_ring(k) ? (state.farthest + 1) * steps.share.rows() * state.width : 0;
  }
  void lay_out() {
    rings = pool.template hand_out<F *>(program.states.count);
    for (int k = 0; k < program.states.count; k++) {
      F *ring = pool.template hand_out<F>(numbers(k));
      if (rings) rings[k] = ring;
    }
  }
  F *slot(int k, int64_t i, int64_t r) const {
    const State &state = program.states[k];
    return rings[k] + (i % (state.farthest + 1) * steps.share.rows() + r - steps.share.first) * state.width;
  }
  F *aim(int k, int64_t i, int64_t r, int delay) const {
    Origin from = steps.source(i, r, delay);
    if (from.is_cut) return nullptr;
    if (from.order >= 0) return slot(k, from.order, r);
    return arrived[k] + (from.past * steps.s.B + r) * program.states[k].width;
  }

  Steps<F> &steps;
  const Program &program;
  const List<F *> arrived;
  Pool pool;
  F **rings = nullptr;
};

}  // namespace BPTT_ISA
