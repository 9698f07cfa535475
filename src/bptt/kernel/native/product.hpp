// Rows times a matrix that was packed into panels: the one product behind every recurrence.
#pragma once

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

  // To be packed block by block.
  Panels(int K, int N) : K(K), N(N), count((N + width - 1) / width) {
    size_t bytes = (size_t)count * K * width * sizeof(F);
    values = static_cast<F *>(take((bytes + 63) / 64 * 64 + 64));
  }

  // Packs a block of `rows` × `columns`, which stands from row k and column n on, a multiple of width;
  // what its last panel has beyond it is 0.
  void pack(const F *block, int k, int rows, int n, int columns, int64_t k_stride, int64_t n_stride) {
    constexpr int tile = 16;  // so that neither side of the transposition leaves the cache
    for (int from = 0; from < columns; from += width) {
      F *panel = values + (int64_t)(n + from) / width * K * width;
      int valid = columns - from < width ? columns - from : width;
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

// `M` rows of a, `stride` apart, times P panels from q on. Each vector of the result goes
// to finish(row, column, sum, lanes that count).
template <int M, int P, class F, class Finish>
static inline __attribute__((always_inline)) void block(const F *a, int64_t stride,
                                                        const Panels<F> &m, int q, int row,
                                                        Finish &finish) {
  constexpr int L = lanes<F>;
  const F *panel[P];
  Vec<F> sum[M][P][2];
  for (int p = 0; p < P; p++) panel[p] = m.panel(q + p);
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++) sum[i][p][0] = sum[i][p][1] = Vec<F>{};
  for (int k = 0; k < m.K; k++) {
    Vec<F> b[P][2];
    for (int p = 0; p < P; p++) {
      b[p][0] = load<F>(panel[p] + k * 2 * L, L);
      b[p][1] = load<F>(panel[p] + k * 2 * L + L, L);
    }
    for (int i = 0; i < M; i++) {
      Vec<F> x = splat<F>(a[i * stride + k]);
      for (int p = 0; p < P; p++) {
        sum[i][p][0] += x * b[p][0];
        sum[i][p][1] += x * b[p][1];
      }
    }
  }
  for (int i = 0; i < M; i++)
    for (int p = 0; p < P; p++)
      for (int v = 0; v < 2; v++) {
        int column = (2 * (q + p) + v) * L, left = m.N - column;
        if (left > 0) finish(row + i, column, sum[i][p][v], left < L ? left : L);
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

}  // namespace BPTT_ISA
