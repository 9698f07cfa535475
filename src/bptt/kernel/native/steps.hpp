// One step of a program for the rows at hand: where its arrays lie, and its stages, one after another.
#pragma once

#include "input.hpp"
#include "instructions.hpp"

namespace BPTT_ISA {

// Numbers that are worked on in one go, so that what a program has at hand stays in the nearest cache.
template <class F> constexpr int64_t block_numbers = 2048 / sizeof(F);

// One block of memory for many arrays: counted first, then taken, then handed out in the same order.
class Pool {
 public:
  ~Pool() { give(start); }
  Pool() = default;
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  template <class T> T *hand_out(int64_t count) {
    size_t from = size;
    size += (count * sizeof(T) + 63) / 64 * 64;
    return start ? reinterpret_cast<T *>(static_cast<char *>(start) + from) : nullptr;
  }
  bool take_it() {
    start = take(size + 64);
    size = 0;
    return start != nullptr;
  }

 private:
  void *start = nullptr;
  size_t size = 0;
};

// The matrices of all products of a program: packed, or as they lie, where that costs less.
template <class F> class Matrices {
 public:
  // rows: how many they will be multiplied with in all.
  Matrices(const Program &program, List<Weight<F>> weights, int64_t rows)
      : program(program), weights(weights), count(program.products.count) {
    panels = static_cast<Panels<F> *>(take((count + 1) * sizeof(Panels<F>)));
    for (; panels && made < count; made++) {
      const Product &product = program.products[made];
      int K = 0, N = 0;
      for (const Block &block : program.blocks.of(product.blocks)) {
        K = product.is_back ? K + block.columns : block.rows;
        N = product.is_back ? block.rows : N + whole(block.columns);
      }
      // Several blocks one below another are one matrix only when they are packed.
      bool packs = rows >= rows_to_pack<F>(K, N) || (product.is_back && product.blocks.count > 1);
      Panels<F> *packed = new (panels + made) Panels<F>(K, N, packs);
      int at = 0;
      for (const Block &block : program.blocks.of(product.blocks)) {
        if (!packs || !packed->ready()) break;
        Matrix<F> m = matrix(block, product.is_back);
        packed->pack(m.at, product.is_back ? at : 0, m.K, product.is_back ? 0 : at, m.N, m.down, m.across);
        at += product.is_back ? m.K : whole(m.N);
      }
    }
  }
  ~Matrices() {
    for (int i = 0; i < made; i++) panels[i].~Panels();
    give(panels);
  }
  Matrices(const Matrices &) = delete;
  Matrices &operator=(const Matrices &) = delete;

  bool ready() const {
    bool all = panels != nullptr;
    for (int i = 0; all && i < count; i++) all = panels[i].ready();
    return all;
  }
  int panels_of(int64_t i) const { return panels[i].count; }

  // Rows z, `stride` apart, times the i-th product's matrices.
  template <class Finish> void multiply(int i, const F *z, int64_t stride, int rows, Finish finish) const {
    const Product &product = program.products[i];
    if (panels[i].K > 0) return ::BPTT_ISA::product(z, stride, rows, panels[i], finish);
    int column = 0;
    for (const Block &block : program.blocks.of(product.blocks)) {
      ::BPTT_ISA::product(z, stride, rows, matrix(block, product.is_back), column, finish);
      column += whole(block.columns);
    }
  }

 private:
  Matrix<F> matrix(const Block &block, bool is_back) const {
    const Weight<F> &w = weights[block.weight];
    const F *from = w.at + block.row * w.down + block.column * w.across;
    if (is_back) return {from, block.columns, block.rows, w.across, w.down};
    return {from, block.rows, block.columns, w.down, w.across};
  }
  // The columns of a part, with those that fill its last panel up.
  static int whole(int columns) { return (columns + Panels<F>::width - 1) / Panels<F>::width * Panels<F>::width; }

  const Program &program;
  const List<Weight<F>> weights;
  const int count;
  int made = 0;
  Panels<F> *panels;
};

// Where a state of a sequence's row lies, seen from its i-th step, `delay` steps before: at step `order`,
// counted as i is; or, where order is −1, before the first one, with `past` = 0 for the latest; or
// nowhere, if a reset lies between.
struct Origin {
  int64_t order, past;
  bool is_cut;
};

// One share's run of a program, in both directions: where every array lies at a step.
template <class F> class Steps {
 public:
  // above: of each state, the gradients that come from above, in a backward pass.
  Steps(const Program &program, const Sequence &s, Share share, const Run<F> &run, List<const F *> above = {})
      : program(program), s(s), share(share), run(run), above(above), matrices(program, run.weights, s.rows_in_all()) {
    for (const Instruction &i : program.instructions) widest = i.width > widest ? i.width : widest;
    block = block_numbers<F> / widest;
    if (block < 1) block = 1;
    if (block > share.rows()) block = share.rows() > 0 ? share.rows() : 1;
    lay_out();
    if (!pool.take_it()) return;
    lay_out();
    frame.outcome = &outcome;
    for (int a = 0; a < program.arrays.count; a++) fill(a);
    find_begins();
  }

  bool ready() const { return begins && matrices.ready(); }

  int64_t row_at(int64_t i, int64_t r) const { return s.start_of(s.nth(i)) + r; }
  F *state_row(int k, int64_t i, int64_t r) const {
    int64_t row = k >= run.whole ? (i & 1) * s.B + r : row_at(i, r);
    return run.states[k] + row * program.states[k].width;
  }

  Origin source(int64_t i, int64_t r, int delay) const {
    int64_t age = i - begins[r - share.first];
    for (int64_t k = 0; s.resets && k < delay && k <= age; k++)
      if (s.resets[row_at(i - k, r)]) return {-1, 0, true};
    return delay <= age ? Origin{i - delay, 0, false} : Origin{-1, delay - 1 - age, false};
  }
  // A state's row there, or null for zeros.
  const F *past_row(int k, int64_t i, int64_t r, int delay) const {
    Origin from = source(i, r, delay);
    if (from.is_cut) return nullptr;
    if (from.order >= 0) return state_row(k, from.order, r);
    return run.starts[k] + (from.past * s.B + r) * program.states[k].width;
  }

  // Finds the arrays for rows `from` to before `to` of the i-th step, which began at `before` or earlier;
  // p: where the projected input of row `from` lies.
  void find(int64_t i, int64_t from, int64_t to, int64_t before, const F *p) {
    const List<Array> &arrays = program.arrays;
    const int64_t row = row_at(i, from);
    for (Place place : {SCRATCH, PUSHED})
      for (int a : program.in(place)) frame.at[a] = memory[a] + (from - share.first) * arrays[a].width;
    for (int a : program.in(INPUT)) frame.at[a] = const_cast<F *>(p);
    for (int a : program.in(PAST)) frame.at[a] = past(a, i, from, to, before);
    for (int a : program.in(NEW)) frame.at[a] = state_row(arrays[a].index, i, from);
    for (int a : program.in(SAVED)) frame.at[a] = run.saved[arrays[a].index] + row * arrays[a].width;
    for (int a : program.in(ABOVE)) frame.at[a] = const_cast<F *>(above[arrays[a].index]) + row * arrays[a].width;
  }

  const F *pushed(int a, int64_t r) const { return memory[a] + (r - share.first) * program.arrays[a].width; }

  // Runs all stages for so many rows.
  void compute(int64_t rows) {
    for (const Stage &stage : program.stages) {
      List<Instruction> code = program.instructions.of(stage.instructions);
      if (code.count)
        for (int64_t row = 0; row < rows; row += block)
          for (const Instruction &i : code)
            execute(i, frame, row, rows - row < block ? rows - row : block, program.constants.at);
      for (int q = 0; q < stage.products.count; q++) multiply(stage.products.first + q, int(rows));
    }
  }

  const Program &program;
  const Sequence &s;
  const Share share;
  const Run<F> &run;
  const List<const F *> above;
  Outcome outcome = DONE;
  Frame<F> frame;

 private:
  void lay_out() {
    const int count = program.arrays.count;
    frame.at = pool.template hand_out<F *>(count);
    frame.stride = pool.template hand_out<int64_t>(count);
    frame.moves = pool.template hand_out<int64_t>(count);
    memory = pool.template hand_out<F *>(count);
    begins = pool.template hand_out<int64_t>(share.rows());
    targets = pool.template hand_out<Target>(program.parts.count);
    for (int a = 0; a < count; a++) {
      const Array &array = program.arrays[a];
      int64_t rows = 0;
      if (array.place == REGISTER || array.place == VECTOR || array.place == CONSTANT) rows = block;
      if (array.place == SCRATCH || array.place == PAST || array.place == PUSHED) rows = share.rows();
      F *at = pool.template hand_out<F>(rows * array.width);
      if (memory) memory[a] = at;
    }
    slots = pool.template hand_out<Slot>(most_panels());
  }

  int64_t most_panels() const {
    int64_t most = 0;
    for (int i = 0; i < program.products.count; i++) most += matrices.panels_of(i);
    return most;
  }

  void fill(int a) {
    const Array &array = program.arrays[a];
    frame.at[a] = array.place == TABLE ? const_cast<F *>(run.weights[array.index].at) : memory[a];
    frame.stride[a] = array.place == TABLE ? run.weights[array.index].down : array.width;
    bool moves = array.place != REGISTER && array.place != VECTOR && array.place != CONSTANT && array.place != SUM &&
                 array.place != TABLE;
    frame.moves[a] = moves ? array.width : 0;
    if (array.place != VECTOR && array.place != CONSTANT) return;
    for (int64_t r = 0; r < block; r++)
      for (int c = 0; c < array.width; c++)
        memory[a][r * array.width + c] = array.place == CONSTANT
                                             ? F(program.constants[array.index])
                                             : run.weights[array.index].at[(array.at + c) * run.weights[array.index].across];
  }

  void find_begins() {
    int64_t t = s.T;
    for (int64_t r = share.first; r < share.last; r++) {
      while (t > 0 && s.rows_at(t - 1) <= r) t--;
      begins[r - share.first] = s.reversed ? s.T - t : 0;
    }
    Slot *slot = slots;
    for (const Product &product : program.products) {
      List<Part> parts = program.parts.of(product.parts);
      for (int part = 0; part < parts.count; part++)
        for (int c = 0; c < parts[part].width; c += Panels<F>::width) *slot++ = {part, c};
    }
  }

  // A state's rows some steps before: where they lie, if they lie there together, or copied.
  F *past(int a, int64_t i, int64_t from, int64_t to, int64_t before) {
    const Array &array = program.arrays[a];
    int k = array.index;
    bool is_plain = program.states[k].farthest == 1;
    for (int64_t r = from; is_plain && s.resets && r < to; r++) is_plain = !s.resets[row_at(i, r)];
    if (is_plain)
      return before < 0 ? const_cast<F *>(run.starts[k]) + from * array.width : state_row(k, i - 1, from);
    F *rows = memory[a] + (from - share.first) * array.width;
    for (int64_t r = from; r < to; r++) {
      F *to_row = rows + (r - from) * array.width;
      if (const F *row = past_row(k, i, r, array.at))
        std::memcpy(to_row, row, array.width * sizeof(F));
      else
        std::memset(to_row, 0, array.width * sizeof(F));
    }
    return rows;
  }

  // Which part of a product a panel belongs to, and from which of its columns on.
  struct Slot {
    int part, column;
  };
  struct Target {
    F *out;
    const F *rows, *vector;
    int64_t out_stride, rows_stride;
    int width;
  };

  // Adds what is to be added to a panel's rows, and stores them.
  struct Panel {
    F *out;
    const F *rows;
    int64_t out_stride, rows_stride;
    Vec<F> vector[2];
    int count;
    inline __attribute__((always_inline)) void operator()(int row, const Vec<F> *sums) const {
      constexpr int L = lanes<F>;
      F *to = out + row * out_stride;
      const F *from = rows + row * rows_stride;
      if (__builtin_expect(count == 2 * L, 1)) {
        Vec<F> first = sums[0] + vector[0], second = sums[1] + vector[1];
        if (rows) first += load<F>(from, L), second += load<F>(from + L, L);
        store<F>(to, first, L);
        store<F>(to + L, second, L);
        return;
      }
      for (int v = 0; v < 2 && v * L < count; v++) {
        int n = count - v * L < L ? count - v * L : L;
        Vec<F> sum = sums[v] + vector[v];
        if (rows) sum += load<F>(from + v * L, n);
        store<F>(to + v * L, sum, n);
      }
    }
  };
  struct Finish {
    const Slot *slots;
    const Target *targets;
    Panel panel(int column, int) const {
      constexpr int L = lanes<F>;
      const Slot &slot = slots[column / Panels<F>::width];
      const Target &target = targets[slot.part];
      int left = target.width - slot.column, count = left < 2 * L ? left : 2 * L;
      Panel panel{target.out + slot.column, target.rows ? target.rows + slot.column : nullptr, target.out_stride,
                  target.rows_stride, {}, count};
      if (target.vector)
        for (int v = 0; v < 2 && v * L < count; v++)
          panel.vector[v] = load<F>(target.vector + slot.column + v * L, count - v * L < L ? count - v * L : L);
      return panel;
    }
  };

  void multiply(int which, int rows) {
    const Product &product = program.products[which];
    List<Part> parts = program.parts.of(product.parts);
    const Slot *slot_of = slots;
    for (int i = 0; i < which; i++) slot_of += matrices.panels_of(i);
    for (int k = 0; k < parts.count; k++) {
      const Part &part = parts[k];
      Target &target = targets[k];
      target = {frame.of(part.out, 0), nullptr, nullptr, frame.stride[part.out.array], 0, part.width};
      if (part.rows.array >= 0) {
        target.rows = frame.of(part.rows, 0);
        target.rows_stride = frame.stride[part.rows.array];
      }
      if (part.vector.array >= 0) target.vector = frame.of(part.vector, 0);
    }
    Finish finish{slot_of, targets};
    matrices.multiply(which, frame.of(product.z, 0), frame.stride[product.z.array], rows, finish);
  }

  const Matrices<F> matrices;
  Pool pool;
  F **memory = nullptr;
  int64_t *begins = nullptr, widest = 1, block = 1;
  Target *targets = nullptr;
  Slot *slots = nullptr;
};

}  // namespace BPTT_ISA
