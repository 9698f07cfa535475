// Rows times a matrix that was packed into panels: the one product behind every recurrence.
#pragma once

#include <utility>  // for integer_sequence, which has no functions

#include "memory.hpp"
#include "simd.hpp"

namespace BPTT_ISA {

// How many rows one block of the product takes: with panels of two vectors, as many as leave the
// accumulators in registers (32 of them on AVX-512, else 16).
constexpr int most_rows = BPTT_VECTOR_BYTES == 64 ? 12 : 6;

// A K×N matrix M in panels of two vectors' width, each K×(2 lanes), the last one filled up with
// zeros. Packed once per call.
template <class F> class Panels {
 public:
  static constexpr int width = 2 * lanes<F>;

  // M[k][n] is matrix[k * k_stride + n * n_stride].
  Panels(const F *matrix, int K, int N, int64_t k_stride, int64_t n_stride) : Panels(K, N) {
    if (values) pack(matrix, 0, K, 0, N, k_stride, n_stride);
  }

  // To be packed block by block; or not, for few rows.
  Panels(int K, int N, bool is_packed = true) : K(is_packed ? K : 0), N(N), count((N + width - 1) / width) {
    size_t bytes = ((size_t)count * K * width * sizeof(F) + 63) / 64 * 64 + 64;
    values = static_cast<F *>(take(is_packed ? bytes : 64));
    if (!is_packed) count_as_taken(bytes);
  }

  // Packs a block of `rows` × `columns`, which stands from row k and column n on, a multiple of width;
  // what its last panel has beyond it is 0.
  void pack(const F *block, int k, int rows, int n, int columns, int64_t k_stride, int64_t n_stride) {
    constexpr int tile = 16;  // so that neither side of the transposition leaves the cache
    for (int from = 0; from < columns; from += width) {
      F *panel = values + (int64_t)(n + from) / width * K * width;
      int valid = columns - from < width ? columns - from : width;
      for (int r = 0; n_stride == 1 && valid == width && r < rows; r++)
        std::memcpy(panel + (int64_t)(k + r) * width, block + r * k_stride + from, width * sizeof(F));
      if (n_stride == 1 && valid == width) continue;
      for (int k0 = 0; k0 < rows; k0 += tile) {
        int k1 = k0 + tile < rows ? k0 + tile : rows;
        for (int c = 0; c < width; c++)
          for (int r = k0; r < k1; r++)
            panel[(k + r) * width + c] = c < valid ? block[r * k_stride + (from + c) * n_stride] : F(0);
      }
    }
  }
  ~Panels() { give(values); }
  Panels(const Panels &) = delete;
  Panels &operator=(const Panels &) = delete;
  static void *operator new(size_t, void *place) { return place; }

  bool ready() const { return values != nullptr; }
  const F *panel(int q) const { return values + (int64_t)q * K * width; }

  const int K, N, count;

 private:
  F *values;
};

// What takes the rows of a panel, from a column on, `count` of them: finish.panel(column, count), which is
// called with a row and its two vectors; or finish(row, column, vector, lanes that count) for each.
template <class F, class Finish>
static inline auto panel_of(Finish &finish, int column, int count, int) -> decltype(finish.panel(column, count)) {
  return finish.panel(column, count);
}
template <class F, class Finish>
static inline auto panel_of(Finish &finish, int column, int count, long) {
  return [&finish, column, count](int row, const Vec<F> *sums) {
    constexpr int L = lanes<F>;
    finish(row, column, sums[0], count < L ? count : L);
    if (count > L) finish(row, column + L, sums[1], count - L < L ? count - L : L);
  };
}

// sums = `M` rows of a, `stride` apart, times P panels, each K rows that lie `step` apart.
template <int M, int P, class F>
static inline __attribute__((always_inline)) void multiply_block(const F *a, int64_t stride, const F *const *panel,
                                                                 int64_t step, int K, Vec<F> (&sum)[M][P][2]) {
  constexpr int L = lanes<F>;
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++) sum[i][p][0] = sum[i][p][1] = Vec<F>{};
  for (int k = 0; k < K; k++) {
    Vec<F> b[P][2];
    for (int p = 0; p < P; p++) {
      b[p][0] = load<F>(panel[p] + k * step, L);
      b[p][1] = load<F>(panel[p] + k * step + L, L);
    }
    for (int i = 0; i < M; i++) {
      Vec<F> x = splat<F>(a[i * stride + k]);
      for (int p = 0; p < P; p++) {
        sum[i][p][0] += x * b[p][0];
        sum[i][p][1] += x * b[p][1];
      }
    }
  }
}

// `M` rows of a, `stride` apart, times P panels from q on. Each vector of the result goes
// to finish; see panel_of.
template <int M, int P, class F, class Finish>
static inline __attribute__((always_inline)) void block(const F *a, int64_t stride,
                                                        const Panels<F> &m, int q, int row,
                                                        Finish &finish) {
  constexpr int L = lanes<F>;
  const F *panel[P];
  Vec<F> sum[M][P][2];
  for (int p = 0; p < P; p++) panel[p] = m.panel(q + p);
  multiply_block<M, P>(a, stride, panel, 2 * L, m.K, sum);
  for (int p = 0; p < P; p++) {
    const int column = 2 * (q + p) * L, left = m.N - column;
    auto put = panel_of<F>(finish, column, left < 2 * L ? left : 2 * L, 0);
    for (int i = 0; i < M; i++) put(row + i, sum[i][p]);
  }
}

// The same for a number of rows known only now.
template <int M, int P, class F, class Finish>
static inline void block_of(int rows, const F *a, int64_t stride, const Panels<F> &m, int q,
                            int row, Finish &finish) {
  if constexpr (M > 0) {
    if (rows == M) return block<M, P>(a, stride, m, q, row, finish);
    return block_of<M - 1, P>(rows, a, stride, m, q, row, finish);
  }
}

template <int P, class F, class Finish>
static inline int panels(const F *a, int64_t stride, int rows, const Panels<F> &m, int q,
                         Finish &finish) {
  int parts = (rows + most_rows - 1) / most_rows;
  for (; q + P <= m.count; q += P)
    for (int i = 0; i < parts; i++) {
      int from = rows * i / parts, to = rows * (i + 1) / parts;
      block_of<most_rows / P, P>(to - from, a + from * stride, stride, m, q, from, finish);
    }
  return q;
}

// Rows of a, (rows, K), `stride` apart, times m, to finish(row, column, sum, lanes). A panel stays
// in the nearest cache while all rows pass by it. Few rows leave registers, and the adders' latency,
// free for more panels.
template <class F, class Finish>
static void product(const F *a, int64_t stride, int rows, const Panels<F> &m, Finish finish) {
  int q = 0;
  if (rows == 1) q = panels<4>(a, stride, rows, m, q, finish);
  if (rows <= 3) q = panels<2>(a, stride, rows, m, q, finish);
  panels<1>(a, stride, rows, m, q, finish);
}

// A matrix as it lies, M[k][n] = at[k * down + n * across].
template <class F> struct Matrix {
  const F *at;
  int K, N;
  int64_t down, across;
};

// How many rows make it worth while to pack a K×N matrix: below, reading it as it lies costs less. What is
// large is packed into memory that the system has yet to give, page by page.
template <class F> constexpr int64_t rows_to_pack(int64_t K, int64_t N) {
  return K * N * int64_t(sizeof(F)) < int64_t(large) ? 48 : 256;
}

// A vector whose lanes, in groups of 2 × half, have changed places with those half a group away.
template <int half, class F, int... lane>
static inline Vec<F> swapped(Vec<F> v, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(v, v, (lane ^ half)...);
}

template <class F, int half = lanes<F> / 2> static inline F total(Vec<F> values) {
  if constexpr (half > 0) {
    values += swapped<half, F>(values, std::make_integer_sequence<int, lanes<F>>{});
    return total<F, half / 2>(values);
  }
  return values[0];
}

// How many rows a block of dot products takes, so that its sums with four columns stay in registers.
constexpr int rows_of_dots = BPTT_VECTOR_BYTES == 64 ? 6 : 3;

// `M` rows z, `stride` apart, times C columns that lie `across` apart, each of K numbers side by side.
template <int M, int C, class F>
static inline void dots(const F *z, int64_t stride, const F *columns, int64_t across, int K, F *out, int64_t out_stride) {
  constexpr int L = lanes<F>;
  Vec<F> sums[M][C] = {};
  auto add = [&](int k, int count) __attribute__((always_inline)) {
    Vec<F> x[M];
    for (int m = 0; m < M; m++) x[m] = load<F>(z + m * stride + k, count);
    for (int c = 0; c < C; c++) {
      Vec<F> column = load<F>(columns + c * across + k, count);
      for (int m = 0; m < M; m++) sums[m][c] += x[m] * column;
    }
  };
  int k = 0;
  for (; k + L <= K; k += L) add(k, L);
  if (k < K) add(k, K - k);
  for (int m = 0; m < M; m++)
    for (int c = 0; c < C; c++) out[m * out_stride + c] = total<F>(sums[m][c]);
}

// `M` rows times up to two vectors' width of columns of a matrix as it lies.
template <int M, class F, class Put>
static inline void rows_as_they_lie(const F *z, int64_t stride, const Matrix<F> &m, int column, int count, int row, Put &put) {
  constexpr int L = lanes<F>, width = 2 * L;
  const F *columns = m.at + column * m.across;
  if (m.across == 1 && count == width) {
    Vec<F> sum[M][1][2];
    multiply_block<M, 1>(z, stride, &columns, m.down, m.K, sum);
    for (int i = 0; i < M; i++) put(row + i, sum[i][0]);
    return;
  }
  F numbers[M][width] = {};
  int c = 0;
  if constexpr (M <= rows_of_dots) {
    if (m.down == 1) {
      for (; M == 1 && c + 8 <= count; c += 8)  // one row alone leaves the adders idle
        dots<M, 8>(z, stride, columns + c * m.across, m.across, m.K, &numbers[0][c], width);
      for (; c + 4 <= count; c += 4)
        dots<M, 4>(z, stride, columns + c * m.across, m.across, m.K, &numbers[0][c], width);
    }
  }
  for (; c < count; c++)
    for (int i = 0; i < M; i++)
      for (int k = 0; k < m.K; k++) numbers[i][c] += z[i * stride + k] * columns[c * m.across + k * m.down];
  for (int i = 0; i < M; i++) {
    Vec<F> sums[2] = {load<F>(numbers[i], L), load<F>(numbers[i] + L, L)};
    put(row + i, sums);
  }
}

template <int M, class F, class Put>
static inline void rows_of(int rows, const F *z, int64_t stride, const Matrix<F> &m, int column, int count, int row, Put &put) {
  if constexpr (M > 0) {
    if (rows == M) return rows_as_they_lie<M>(z, stride, m, column, count, row, put);
    return rows_of<M - 1>(rows, z, stride, m, column, count, row, put);
  }
}

// The same product of few rows with a matrix that is not packed, as columns `first` and on of the result.
template <class F, class Finish>
static void product(const F *a, int64_t stride, int rows, const Matrix<F> &m, int first, Finish &&finish) {
  constexpr int width = 2 * lanes<F>;
  const int most = m.across == 1 ? most_rows : rows_of_dots, parts = (rows + most - 1) / most;
  for (int n = 0; n < m.N; n += width) {
    const int count = m.N - n < width ? m.N - n : width;
    auto put = panel_of<F>(finish, first + n, count, 0);
    for (int i = 0; i < parts; i++) {
      int from = rows * i / parts, to = rows * (i + 1) / parts;
      rows_of<most_rows>(to - from, a + from * stride, stride, m, n, count, from, put);
    }
  }
}

}  // namespace BPTT_ISA
