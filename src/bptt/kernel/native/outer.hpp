// Sums of outer products over rows, Σ δ xᵀ: what the gradient of every weight matrix is.
#pragma once

#include "product.hpp"

namespace BPTT_ISA {

// Rows that are gathered before they are multiplied: enough to pay for reading the sum and writing
// it back, few enough to be in the cache still.
constexpr int64_t enough_rows = 128;

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

  Outer(int M, int K, int64_t most) : M(M), K(K), count((K + width - 1) / width) {
    size_t size = ((size_t)count * M + most) * width * sizeof(F);
    sums = static_cast<F *>(take((size + 127) / 64 * 64));
    if (!sums) return;
    std::memset(sums, 0, (size_t)count * M * width * sizeof(F));
    packed = sums + (int64_t)count * M * width;
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
    for (int q = 0; q < count; q++) {
      int column = q * width, left_over = K - column;
      for (int64_t c = 0; c < rows; c++) {
        const F *row = right(c);
        F *to = packed + c * width;
        store<F>(to, row ? load<F>(row + column, left_over < L ? left_over : L) : Vec<F>{}, L);
        bool second = row && left_over > L;
        store<F>(to + L, second ? load<F>(row + column + L, left_over < 2 * L ? left_over - L : L) : Vec<F>{}, L);
      }
      int parts = (M + most_rows - 1) / most_rows;
      for (int i = 0; i < parts; i++) {
        int from = M * i / parts, to = M * (i + 1) / parts;
        outer_block_of<most_rows>(to - from, left + from, stride, packed, rows,
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
  const int M, K, count;
  F *sums, *packed;
};

}  // namespace BPTT_ISA
