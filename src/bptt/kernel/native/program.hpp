// A program as the native loop reads it: what kernel/lower.py makes of a step, and of its gradient.
#pragma once

#include "sequence.hpp"

// In which memory an array lies. In the order of Place in kernel/lower.py.
enum Place { REGISTER, SCRATCH, VECTOR, CONSTANT, INPUT, PAST, NEW, SAVED, ABOVE, ARRIVED, DELTA, MADE, SUM, PUSHED, TABLE };
constexpr int places = TABLE + 1;

struct Array {
  int32_t place, index, width, at;
};

// Columns of an array, from one on; none where the array is −1.
struct Operand {
  int32_t array, column;
};

struct Instruction {
  int32_t op, width;
  Operand out, args[3];
  int32_t number;  // which of the constants, where the operation has one
  int32_t spread;  // a bit for each argument: whether it has one number a row, for all columns
};

// Columns of a product: where they go, and the rows and the vector that are added to them.
struct Part {
  Operand out;
  int32_t width;
  Operand rows, vector;
};

// A block of a weight matrix: its first row and column, and how many it has.
struct Block {
  int32_t weight, row, column, rows, columns;
};

// From which item on, and how many.
struct Range {
  int32_t first, count;
};

// Rows z times blocks side by side; or, if back, times their transposes one below another.
struct Product {
  Operand z;
  int32_t is_back;
  Range blocks, parts;
};

// Products of the same rows z, whose gradients Σ δ zᵀ are had together.
struct Group {
  int32_t deltas;
  Operand z;
  Range blocks;
};

// Columns of rows of many steps, whose sum over all rows belongs to a vector, from one of its columns on.
struct Sum {
  int32_t deltas, column, width, weight, at;
};

// Columns of rows of many steps, each of which belongs to a table's row, from one of its columns on: to
// that with the number in `rows`.
struct LookUp {
  int32_t deltas, column, width, rows, weight, at;
};

// First instructions, then products.
struct Stage {
  Range instructions, products;
};

// A state: its width, and how many steps back it is read.
struct State {
  int32_t width, farthest;
};

template <class T> struct List {
  const T *at;
  int32_t count;
  const T *begin() const { return at; }
  const T *end() const { return at + count; }
  const T &operator[](int64_t i) const { return at[i]; }
  List of(Range range) const { return {at + range.first, range.count}; }
};

struct Program {
  int32_t p, of_p;  // the width of p, and the DELTA array of its gradient
  List<State> states;
  List<Array> arrays;
  List<Instruction> instructions;
  List<Stage> stages;
  List<Product> products;
  List<Part> parts;
  List<Block> blocks;
  List<Group> groups;
  List<Sum> sums;
  List<LookUp> look_ups;
  List<double> constants;
  List<int32_t> placed[places];  // the arrays of each place
  List<int32_t> in(Place place) const { return placed[place]; }
};

// A matrix (rows, ·) with so many numbers from row to row and from column to column; or a vector.
template <class F> struct Weight {
  const F *at;
  int64_t down, across, rows;
};

// What one run of a program reads and writes. Rows of a state lie one for each of the batch's rows at
// every step, (N, width); or, from the state `whole` on, of the last two steps alone, (2, B, width).
template <class F> struct Run {
  const F *x;
  const int64_t *tokens;
  const F *U, *b_ih, *b_hh;
  const F *p;  // given, if neither x nor tokens are
  List<const F *> starts;  // (farthest, B, width): the state before the first step, the one before it, …
  List<F *> states;
  List<F *> saved;
  List<Weight<F>> weights;
  int whole;
};

// How a run ended: well; for want of memory; or with a number that is none of its table's rows.
enum Outcome { DONE, NO_MEMORY, NO_SUCH_ROW };

template <class F> struct RunGradients {
  List<const F *> above;    // of each state, (N, width); null where none is read
  List<F *> arrived;        // in: that of the last states; out: that of the first ones
  F *x, *U, *b, *p;         // null where it is not wanted, as are the weights'
  List<F *> weights;        // (columns, rows) of a matrix
  F omega;                  // what Ω weighs
  F *of_omega;               // Ω itself, (1), or null where it weighs nothing
  bool is_relu;             // else it is tanh's
};
