// Sums of outer products over rows, Σ δ xᵀ: what the gradient of every weight matrix is.
#pragma once

#include "product.hpp"

namespace BPTT_ISA {

// Rows that are gathered before they are multiplied: enough to pay for reading the sum and writing
// it back, few enough to be in the cache still.
constexpr int64_t enough_rows = 128;

// How wide a sum makes it worth while to lay the left rows' columns side by side first: they lie in more
// pages than the processor has at hand, and are read for every panel.
constexpr int wide = 256;

// `M` rows of the sum, two vectors wide: sum[m] += Σ_c left[c][m] right[c]; right is packed.
template <int M, class F>
static inline void outer_block(const F *left, int64_t stride, const F *right, int64_t rows, F *sums) {
  constexpr int L = lanes<F>;
  Vec<F> sum[M][2];
  for (int m = 0; m < M; m++)
    for (int v = 0; v < 2; v++) sum[m][v] = load<F>(sums + (2 * m + v) * L, L);
  for (int64_t c = 0; c < rows; c++) {
    Vec<F> b0 = load<F>(right + 2 * c * L, L), b1 = load<F>(right + (2 * c + 1) * L, L);
    for (int m = 0; m < M; m++) {
      Vec<F> a = splat<F>(left[c * stride + m]);
      sum[m][0] += a * b0;
      sum[m][1] += a * b1;
    }
  }
  for (int m = 0; m < M; m++)
    for (int v = 0; v < 2; v++) store<F>(sums + (2 * m + v) * L, sum[m][v], L);
}

template <int M, class F>
static inline void outer_block_of(int m, const F *left, int64_t stride, const F *right, int64_t rows,
                                  F *sums) {
  if constexpr (M > 0) {
    if (m == M) return outer_block<M>(left, stride, right, rows, sums);
    return outer_block_of<M - 1>(m, left, stride, right, rows, sums);
  }
}

// An M×K sum, in panels of two vectors' width. It takes at most `most` rows at a time.
template <class F> class Outer {
 public:
  static constexpr int width = 2 * lanes<F>;

  Outer(int M, int K, int64_t most) : M(M), K(K), count((K + width - 1) / width), parts((M + most_rows - 1) / most_rows) {
    size_t size = (((size_t)count * M + most) * width + (K >= wide ? most * M : 0)) * sizeof(F);
    sums = static_cast<F *>(take((size + 127) / 64 * 64));
    if (!sums) return;
    std::memset(sums, 0, (size_t)count * M * width * sizeof(F));
    packed = sums + (int64_t)count * M * width;
    if (K >= wide) columns = packed + most * width;
  }
  ~Outer() { give(sums); }
  Outer(const Outer &) = delete;
  static void *operator new(size_t, void *place) { return place; }
  Outer &operator=(const Outer &) = delete;

  bool ready() const { return sums != nullptr; }

  // Adds Σ_c left[c] right(c)ᵀ, where the rows of `left` are `stride` apart, and right(c) is the
  // address of a row, or null for zeros.
  template <class Right> void add(const F *left, int64_t stride, int64_t rows, Right right) {
    constexpr int L = lanes<F>;
    if (columns) lay_side_by_side(left, stride, rows);
    for (int q = 0; q < count; q++) {
      int column = q * width, left_over = K - column;
      for (int64_t c = 0; c < rows; c++) {
        const F *row = right(c);
        F *to = packed + c * width;
        store<F>(to, row ? load<F>(row + column, left_over < L ? left_over : L) : Vec<F>{}, L);
        bool second = row && left_over > L;
        store<F>(to + L, second ? load<F>(row + column + L, left_over < 2 * L ? left_over - L : L) : Vec<F>{}, L);
      }
      for (int i = 0; i < parts; i++) {
        int from = begin(i), n = begin(i + 1) - from;
        outer_block_of<most_rows>(n, columns ? columns + from * rows : left + from, columns ? n : stride, packed, rows,
                                  sums + ((int64_t)q * M + from) * width);
      }
    }
  }

  // Writes the sum to `out`, (M, K).
  void write(F *out) const {
    for (int q = 0; q < count; q++)
      for (int m = 0; m < M; m++) {
        int column = q * width, n = K - column < width ? K - column : width;
        std::memcpy(out + (int64_t)m * K + column, sums + ((int64_t)q * M + m) * width, n * sizeof(F));
      }
  }

  // Adds rows `from` to before `to` of the sum to rows of `out`, which are `stride` apart.
  void add_rows(F *out, int64_t stride, int from, int to) const {
    for (int q = 0; q < count; q++)
      for (int m = from; m < to; m++) {
        const F *sum = sums + ((int64_t)q * M + m) * width;
        F *row = out + (m - from) * stride + q * width;
        for (int c = 0; c < width && q * width + c < K; c++) row[c] += sum[c];
      }
  }

 private:
  // The first row of the i-th part of the sum, of about equal ones.
  int begin(int i) const { return int(int64_t(M) * i / parts); }

  void lay_side_by_side(const F *left, int64_t stride, int64_t rows) {
    for (int i = 0; i < parts; i++) {
      const int from = begin(i), n = begin(i + 1) - from;
      F *to = columns + from * rows;
      for (int64_t c = 0; c < rows; c++, to += n)
        if (n == most_rows)
          std::memcpy(to, left + c * stride + from, most_rows * sizeof(F));  // of known size: few instructions
        else
          std::memcpy(to, left + c * stride + from, n * sizeof(F));
    }
  }

  const int M, K, count, parts;
  F *sums, *packed, *columns = nullptr;
};

}  // namespace BPTT_ISA
