// The operations of a program on blocks of rows.
#pragma once

#include "product.hpp"
#include "program.hpp"

namespace BPTT_ISA {

// Where every array begins for the rows at hand, how far its rows are apart, and by how much it moves
// from row to row: not at all where it has the rows of one block only.
template <class F> struct Frame {
  F **at;
  int64_t *stride, *moves;
  Outcome *outcome;
  F *of(Operand operand, int64_t row) const {
    return at[operand.array] + row * moves[operand.array] + operand.column;
  }
};

static inline float call_log(float x) { return __builtin_logf(x); }
static inline double call_log(double x) { return __builtin_log(x); }
static inline float call_log1p(float x) { return __builtin_log1pf(x); }
static inline double call_log1p(double x) { return __builtin_log1p(x); }
static inline float call_sin(float x) { return __builtin_sinf(x); }
static inline double call_sin(double x) { return __builtin_sin(x); }
static inline float call_cos(float x) { return __builtin_cosf(x); }
static inline double call_cos(double x) { return __builtin_cos(x); }
static inline float call_erf(float x) { return __builtin_erff(x); }
static inline double call_erf(double x) { return __builtin_erf(x); }
static inline float call_pow(float x, double n) { return __builtin_powf(x, float(n)); }
static inline double call_pow(double x, double n) { return __builtin_pow(x, n); }
static inline float call_sqrt(float x) { return __builtin_sqrtf(x); }
static inline double call_sqrt(double x) { return __builtin_sqrt(x); }
static inline float call_trunc(float x) { return __builtin_truncf(x); }
static inline double call_trunc(double x) { return __builtin_trunc(x); }

// A function of each lane.
template <class F, class Function> static inline Vec<F> lanewise(Vec<F> x, Function function) {
  for (int lane = 0; lane < lanes<F>; lane++) x[lane] = function(x[lane]);
  return x;
}

template <class F> static inline Vec<F> larger(Vec<F> a, Vec<F> b) { return a != a || a > b ? a : b; }
template <class F> static inline Vec<F> smaller(Vec<F> a, Vec<F> b) { return a != a || a < b ? a : b; }
template <class F, class Mask> static inline Vec<F> as_numbers(Mask mask) {
  return mask ? splat<F>(F(1)) : Vec<F>{};
}

// out = op(args) over `rows` rows, which lie end to end where no array has more columns than are used.
// Spreads: some arguments have one number a row, which is read from a vector full of it again and again.
template <int N, bool Spreads, class F, class Op>
static inline __attribute__((always_inline)) void each(const Instruction &i, const Frame<F> &f, int64_t row,
                                                       int64_t rows, Op op) {
  constexpr int L = lanes<F>;
  int64_t width = i.width;
  bool is_flat = !Spreads && f.stride[i.out.array] == width;
  F *out = f.of(i.out, row);
  const F *from[3];
  for (int k = 0; k < N; k++) {
    from[k] = f.of(i.args[k], row);
    is_flat &= f.stride[i.args[k].array] == width;
  }
  if (is_flat) width *= rows, rows = 1;
  for (int64_t r = 0; r < rows; r++) {
    Vec<F> spread[3];
    const F *at[3];
    int64_t moves[3];
    for (int k = 0; k < N; k++) {
      bool is_spread = Spreads && i.spread >> k & 1;
      if (is_spread) spread[k] = splat<F>(*from[k]);
      at[k] = is_spread ? reinterpret_cast<const F *>(spread + k) : from[k];
      moves[k] = is_spread ? 0 : 1;
    }
    int64_t c = 0;
    for (; c + 2 * L <= width; c += 2 * L) {  // two at a time, whose latencies overlap
      Vec<F> v[2][3];
      for (int k = 0; k < N; k++) {
        v[0][k] = load<F>(at[k] + c * moves[k], L);
        v[1][k] = load<F>(at[k] + (c + L) * moves[k], L);
      }
      Vec<F> first = op(v[0]), second = op(v[1]);
      store<F>(out + c, first, L);
      store<F>(out + c + L, second, L);
    }
    for (; c < width; c += L) {
      const int count = width - c < L ? int(width - c) : L;
      Vec<F> v[3];
      for (int k = 0; k < N; k++) v[k] = load<F>(at[k] + c * moves[k], count);
      store<F>(out + c, op(v), count);
    }
    out += f.stride[i.out.array];
    for (int k = 0; k < N; k++) from[k] += f.stride[i.args[k].array];
  }
}

template <class F> static F sum_of(const F *row, int64_t width) {
  constexpr int L = lanes<F>;
  Vec<F> sums[4] = {};
  int64_t c = 0;
  for (; c + 4 * L <= width; c += 4 * L)
    for (int k = 0; k < 4; k++) sums[k] += load<F>(row + c + k * L, L);
  for (; c < width; c += L) sums[0] += load<F>(row + c, width - c < L ? int(width - c) : L);
  return total<F>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// In the order of OPS in kernel/lower.py.
enum Op {
  COPY, DETACH, ADD, SUB, MUL, DIV, NEG, TRUNC, ABS, MINIMUM, MAXIMUM, SQRT, EXP, EXPM1, LOG, LOG1P, TANH, SIGMOID, RELU, SIN, COS,
  ERF, POW, GREATER, AT_LEAST, EQUAL, WHERE, LERP, MUL_ADD, MUL_REST, MUL_DIFFERENCE, TANH_BACK, SIGMOID_BACK,
  ROW_SUM, ROW_MAX, ARGMAX, CHOOSE, SPREAD, LOOK_UP, ACCUMULATE
};

// The operations along a row: to one number, and from one.
template <class F>
static void along(const Instruction &i, const Frame<F> &f, int64_t row, int64_t rows, int op) {
  constexpr int L = lanes<F>;
  Operand in = i.args[0];
  for (int64_t r = 0; r < rows; r++) {
    const F *from = f.of(in, row) + r * f.stride[in.array];
    F *out = f.of(i.out, row) + r * f.stride[i.out.array];
    if (op == ROW_SUM) {
      *out = sum_of(from, i.width);
    } else if (op == ROW_MAX || op == ARGMAX) {
      int64_t best = 0;
      for (int64_t c = 1; c < i.width; c++)
        if (!(from[best] != from[best] || from[best] >= from[c])) best = c;  // the first NaN, if there is one
      *out = op == ROW_MAX ? from[best] : F(best);
    } else if (op == CHOOSE) {
      double all = 0, sum = 0;  // of the same numbers in the same order, so that the target is within reach
      for (int64_t c = 0; c < i.width; c++) all += double(from[c]);
      const double target = double(f.of(i.args[1], row)[r * f.stride[i.args[1].array]]) * all;
      int64_t c = 0;
      for (; c < i.width - 1; c++)
        if ((sum += double(from[c])) > target) break;
      *out = F(c);
    } else {
      for (int64_t c = 0; c < i.width; c += L) store<F>(out + c, splat<F>(*from), i.width - c < L ? int(i.width - c) : L);
    }
  }
}

// Adds all rows to one, which is of no row.
template <class F> static void accumulate(const Instruction &i, const Frame<F> &f, int64_t row, int64_t rows) {
  constexpr int L = lanes<F>;
  const int64_t stride = f.stride[i.args[0].array];
  const F *from = f.of(i.args[0], row);
  F *out = f.of(i.out, row);
  int64_t c = 0;
  for (; c + L <= i.width; c += L) {
    Vec<F> sum = load<F>(out + c, L);
    for (int64_t r = 0; r < rows; r++) sum += load<F>(from + c + r * stride, L);
    store<F>(out + c, sum, L);
  }
  if (c < i.width) {
    const int n = int(i.width - c);
    Vec<F> sum = load<F>(out + c, n);
    for (int64_t r = 0; r < rows; r++) sum += load<F>(from + c + r * stride, n);
    store<F>(out + c, sum, n);
  }
}

// Rows of a table, by their numbers, of which there are `count`.
template <class F>
static void look_up(const Instruction &i, const Frame<F> &f, int64_t row, int64_t rows, double count) {
  const Operand number = i.args[0], table = i.args[1];
  for (int64_t r = 0; r < rows; r++) {
    const F which = f.of(number, row)[r * f.stride[number.array]];
    F *out = f.of(i.out, row) + r * f.stride[i.out.array];
    if (which > F(-1) && which < count) {
      std::memcpy(out, f.of(table, 0) + int64_t(which) * f.stride[table.array], i.width * sizeof(F));
    } else {
      *f.outcome = NO_SUCH_ROW;
      std::memset(out, 0, i.width * sizeof(F));
    }
  }
}

template <class F>
static void execute(const Instruction &i, const Frame<F> &f, int64_t row, int64_t rows, const double *constants) {
  using V = Vec<F>;
#define EACH(N, expression)                                    \
  do {                                                         \
    auto op = [&](const V *v) -> V { return expression; };     \
    if constexpr (N > 1) {                                     \
      if (i.spread) return each<N, true>(i, f, row, rows, op); \
    }                                                          \
    return each<N, false>(i, f, row, rows, op);                \
  } while (0)
  switch (i.op) {
    case COPY:
    case DETACH: EACH(1, v[0]);
    case ADD: EACH(2, v[0] + v[1]);
    case SUB: EACH(2, v[0] - v[1]);
    case MUL: EACH(2, v[0] * v[1]);
    case DIV: EACH(2, v[0] / v[1]);
    case NEG: EACH(1, -v[0]);
    case TRUNC: EACH(1, lanewise<F>(v[0], [](F x) { return call_trunc(x); }));
    case ABS: EACH(1, with_sign_of<F>(v[0], V{}));
    case MINIMUM: EACH(2, smaller<F>(v[0], v[1]));
    case MAXIMUM: EACH(2, larger<F>(v[0], v[1]));
    case SQRT: EACH(1, lanewise<F>(v[0], [](F x) { return call_sqrt(x); }));
    case EXP: EACH(1, exp(v[0]));
    case EXPM1: EACH(1, expm1(v[0]));
    case LOG: EACH(1, lanewise<F>(v[0], [](F x) { return call_log(x); }));
    case LOG1P: EACH(1, lanewise<F>(v[0], [](F x) { return call_log1p(x); }));
    case TANH: EACH(1, tanh(v[0]));
    case SIGMOID: EACH(1, sigmoid<F>(v[0]));
    case RELU: EACH(1, (v[0] < F(0) ? V{} : v[0]));  // NaN < 0 is false, so NaN stays
    case SIN: EACH(1, lanewise<F>(v[0], [](F x) { return call_sin(x); }));
    case COS: EACH(1, lanewise<F>(v[0], [](F x) { return call_cos(x); }));
    case ERF: EACH(1, lanewise<F>(v[0], [](F x) { return call_erf(x); }));
    case POW: EACH(1, lanewise<F>(v[0], [&](F x) { return call_pow(x, constants[i.number]); }));
    case GREATER: EACH(2, as_numbers<F>(v[0] > v[1]));
    case AT_LEAST: EACH(2, as_numbers<F>(v[0] >= v[1]));
    case EQUAL: EACH(2, as_numbers<F>(v[0] == v[1]));
    case WHERE: EACH(3, (v[0] != F(0) ? v[1] : v[2]));
    case LERP: EACH(3, v[0] + v[2] * (v[1] - v[0]));
    case MUL_ADD: EACH(3, v[0] * v[1] + v[2]);
    case MUL_REST: EACH(2, v[0] - v[0] * v[1]);
    case MUL_DIFFERENCE: EACH(3, v[0] * (v[1] - v[2]));
    case TANH_BACK: EACH(2, v[0] * (F(1) - v[1] * v[1]));
    case SIGMOID_BACK: EACH(2, v[0] * v[1] * (F(1) - v[1]));
    case ACCUMULATE: return accumulate(i, f, row, rows);
    case LOOK_UP: return look_up(i, f, row, rows, constants[i.number]);
    default: along(i, f, row, rows, i.op);
  }
#undef EACH
}

}  // namespace BPTT_ISA
