// How the rows of a batch of sequences lie in memory, step by step.
#pragma once

#include <cstdint>

// The part of the batch that one thread computes, from row `first` to before row `last`.
struct Share {
  int64_t first, last;
  int64_t rows() const { return last - first; }
};

// Sequences sorted by falling length, packed: step t has rows[t] rows, the first of which is row
// starts[t] of every (N, ·) array; row r is the same sequence at every step. Where rows is null
// every step has B rows. resets, (N), marks rows before which the state is zeroed; it may be null.
// reversed runs from the last step to the first.
struct Sequence {
  int64_t T, B;
  const int64_t *rows, *starts;
  const uint8_t *resets;
  bool reversed;

  int64_t rows_at(int64_t t) const { return t < 0 || t >= T ? 0 : rows ? rows[t] : B; }
  int64_t start_of(int64_t t) const { return rows ? starts[t] : t * B; }
  // The step that is the i-th to be computed, and the one computed before step t.
  int64_t nth(int64_t i) const { return reversed ? T - 1 - i : i; }
  int64_t before(int64_t t) const { return reversed ? t + 1 : t - 1; }
  // Where the share's rows end at step t: at its first row if it has none.
  int64_t end_of(Share share, int64_t t) const {
    int64_t n = rows_at(t);
    return n < share.last ? (n > share.first ? n : share.first) : share.last;
  }
  // How many rows there are over all steps; and of them, how many the share has.
  int64_t rows_in_all() const { return rows_of({0, B}); }
  int64_t rows_of(Share share) const {
    int64_t total = rows ? 0 : T * share.rows();
    for (int64_t t = 0; rows && t < T; t++) total += end_of(share, t) - share.first;
    return total;
  }
};

// Calls step(from, to, before) for every stretch of this share's rows at step t, in the order of
// computation, where `before` is the step that they come from, or −1 for rows that begin at t.
template <class Step> static inline void stretches(const Sequence &s, Share share, int64_t t, Step step) {
  int64_t before = s.before(t), end = s.end_of(share, t), old = s.end_of(share, before);
  if (old > end) old = end;
  if (old > share.first) step(share.first, old, before);
  if (end > old) step(old, end, int64_t(-1));
}
