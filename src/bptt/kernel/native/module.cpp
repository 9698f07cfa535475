// The door from Python: addresses and sizes in, after Python has checked them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <unistd.h>

#include <atomic>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "table.hpp"

namespace nb = nanobind;

static const Build *named(const std::string &name) {
#if defined(__x86_64__)
  if (name == "avx512" && __builtin_cpu_supports("x86-64-v4")) return &avx512_build;
  if (name == "avx2" && __builtin_cpu_supports("x86-64-v3")) return &avx2_build;
#endif
  return name == "portable" ? &portable_build : nullptr;
}

static const Build *best() {
  for (const char *name : {"avx512", "avx2"})
    if (const Build *build = named(name)) return build;
  return &portable_build;
}

static const Build *chosen = best();

// The crew that torch's own operations work with, if Python found it: GOMP_parallel of the library
// that torch has loaded. Between two operations its threads spin, and a thread of our own would have
// to share a core with one of them. They do not survive a fork, after which we start our own.
typedef void (*Crew)(void (*work)(void *), void *data, unsigned threads, unsigned flags);
static Crew crew = nullptr;
static pid_t crew_of = 0;

template <class Work> static void in_parallel(int parts, Work work) {
  std::atomic<int> next{0};
  auto take = [&] {
    for (int i; (i = next++) < parts;) work(i);
  };
  if (parts > 1 && crew && crew_of == getpid()) {
    crew([](void *data) { (*static_cast<decltype(take) *>(data))(); }, &take, unsigned(parts), 0);
  } else {
    std::vector<std::thread> others;
    for (int i = 1; i < parts; i++) others.emplace_back(take);
    take();
    for (auto &thread : others) thread.join();
  }
}

// Cuts the batch into shares of about equal work and computes each in a thread of its own; results
// do not depend on where the cuts lie, since every row is computed by itself.
template <class Work> static void share_out(const Sequence &s, int threads, Work work) {
  std::vector<int64_t> cuts = {0};
  int64_t most = s.rows ? (s.T ? s.rows_at(0) : 0) : s.B, total = 0, done = 0;
  for (int64_t t = 0; t < s.T; t++) total += s.rows_at(t);
  if (threads > most) threads = int(most);
  if (!s.rows) {
    for (int i = 1; i < threads; i++) cuts.push_back(most * i / threads);
  } else {
    int64_t t = s.T;
    for (int64_t r = 0; r < most; r++) {
      while (t > 0 && s.rows[t - 1] <= r) t--;  // row r lasts t steps
      if ((int)cuts.size() < threads && done >= total * (int64_t)cuts.size() / threads) cuts.push_back(r);
      done += t;
    }
  }
  cuts.push_back(most);
  std::atomic<bool> well{true};
  in_parallel(int(cuts.size()) - 1, [&](int i) {
    if (cuts[i] < cuts[i + 1] && !work(Share{cuts[i], cuts[i + 1]})) well = false;
  });
  if (!well) throw std::bad_alloc();
}

template <class T> static T *at(uintptr_t address) { return reinterpret_cast<T *>(address); }

template <class F> static const Layers<F> &layers();
template <> const Layers<float> &layers<float>() { return chosen->single; }
template <> const Layers<double> &layers<double>() { return chosen->twice; }

// (T, B, rows, starts, resets, reversed, threads, H), then addresses.
#define SEQUENCE                                                                                     \
  int64_t T, int64_t B, uintptr_t rows, uintptr_t starts, uintptr_t resets, bool reversed, int threads, int H
#define MAKE_SEQUENCE                                                                                \
  Sequence s{T, B, at<int64_t>(rows), at<int64_t>(starts), at<uint8_t>(resets), reversed}

template <class F> static void bind(nb::module_ &m, const std::string &type) {
  using gil = nb::call_guard<nb::gil_scoped_release>;
  m.def(("elman_forward_" + type).c_str(),
        [](SEQUENCE, uintptr_t W, uintptr_t h0, uintptr_t p, uintptr_t h, bool relu) {
          MAKE_SEQUENCE;
          share_out(s, threads, [&](Share share) {
            return layers<F>().elman_forward(s, share, H, at<F>(W), at<F>(h0), at<F>(p), at<F>(h), relu);
          });
        },
        gil());
  m.def(("elman_backward_" + type).c_str(),
        [](SEQUENCE, uintptr_t W, uintptr_t h, uintptr_t grad_h, uintptr_t grad_last, uintptr_t grad_p,
           uintptr_t grad_h0, bool relu) {
          MAKE_SEQUENCE;
          share_out(s, threads, [&](Share share) {
            return layers<F>().elman_backward(s, share, H, at<F>(W), at<F>(h), at<F>(grad_h),
                                              at<F>(grad_last), at<F>(grad_p), at<F>(grad_h0), relu);
          });
        },
        gil());
  m.def(("gru_forward_" + type).c_str(),
        [](SEQUENCE, uintptr_t W, uintptr_t bias, uintptr_t h0, uintptr_t p, uintptr_t gates,
           uintptr_t a_n, uintptr_t h) {
          MAKE_SEQUENCE;
          share_out(s, threads, [&](Share share) {
            return layers<F>().gru_forward(s, share, H, at<F>(W), at<F>(bias), at<F>(h0), at<F>(p),
                                           at<F>(gates), at<F>(a_n), at<F>(h));
          });
        },
        gil());
  m.def(("gru_backward_" + type).c_str(),
        [](SEQUENCE, uintptr_t W, uintptr_t h0, uintptr_t gates, uintptr_t a_n, uintptr_t h,
           uintptr_t grad_h, uintptr_t grad_last, uintptr_t grad_p, uintptr_t grad_a_n, uintptr_t grad_h0) {
          MAKE_SEQUENCE;
          share_out(s, threads, [&](Share share) {
            return layers<F>().gru_backward(s, share, H, at<F>(W), at<F>(h0), at<F>(gates), at<F>(a_n),
                                            at<F>(h), at<F>(grad_h), at<F>(grad_last), at<F>(grad_p),
                                            at<F>(grad_a_n), at<F>(grad_h0));
          });
        },
        gil());
  m.def(("tanh_" + type).c_str(),
        [](uintptr_t x, uintptr_t y, int64_t n) { layers<F>().tanh(at<F>(x), at<F>(y), n); }, gil());
}

NB_MODULE(native, m) {
  m.doc() = "Recurrent layers over whole sequences, on addresses that Python has checked.";
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  m.def("use_crew", [](uintptr_t address) {
    crew = reinterpret_cast<Crew>(address);
    crew_of = getpid();
  });
  m.def("instruction_set", [] { return std::string(chosen->name); });
  m.def("use", [](const std::string &name) {
    const Build *build = named(name);
    if (build) chosen = build;
    return build != nullptr;
  });
}
