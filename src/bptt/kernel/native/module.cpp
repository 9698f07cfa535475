// The door from Python: addresses and sizes in, after Python has checked them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "table.hpp"

namespace nb = nanobind;

static std::atomic<int64_t> bytes_taken{0};  // since Python last asked

// Each block begins with its size. Large ones are the system's own, so that they leave no holes in the
// heap: what a budget of memory is held to is how far the process grows.
constexpr size_t head = 64, large = 1 << 20;

static size_t whole(size_t bytes) { return (bytes + head + 63) / 64 * 64; }

void *take(size_t bytes) {
  bytes_taken += int64_t(bytes);
  size_t size = whole(bytes);
  void *block = size < large ? aligned_alloc(64, size)
                             : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!block || block == MAP_FAILED) return nullptr;
  *static_cast<size_t *>(block) = size;
  return static_cast<char *>(block) + head;
}

void give(void *memory) {
  if (!memory) return;
  void *block = static_cast<char *>(memory) - head;
  size_t size = *static_cast<size_t *>(block);
  if (size < large)
    free(block);
  else
    munmap(block, size);
}

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

// Cuts the batch into shares of about equal work.
static std::vector<Share> shares(const Sequence &s, int threads) {
  std::vector<int64_t> cuts = {0};
  int64_t most = s.rows_at(0), total = 0, done = 0;
  for (int64_t t = 0; t < s.T; t++) total += s.rows_at(t);
  if (threads > most) threads = int(most);
  if (!s.rows) {
    for (int i = 1; i < threads; i++) cuts.push_back(most * i / threads);
  } else {
    int64_t t = s.T;
    for (int64_t r = 0; r < most; r++) {
      while (t > 0 && s.rows[t - 1] <= r) t--;  // row r lasts t steps
      if ((int)cuts.size() < threads && done > 0 && done >= total * (int64_t)cuts.size() / threads)
        cuts.push_back(r);
      done += t;
    }
  }
  cuts.push_back(most);
  std::vector<Share> cut;
  for (size_t i = 0; i + 1 < cuts.size(); i++) cut.push_back({cuts[i], cuts[i + 1]});
  return cut;
}

// Calls work(share, which), each in a thread of its own.
template <class Work> static void for_each(const std::vector<Share> &cut, Work work) {
  std::atomic<bool> well{true};
  in_parallel(int(cut.size()), [&](int i) {
    if (!work(cut[i], i)) well = false;
  });
  if (!well) throw std::bad_alloc();
}

// The gradients of weights, to which every share adds: the first where they belong, the others in
// memory of their own, which is added in order, so that the same shares give the same bits.
template <class F, class Gradients> class Sums {
 public:
  typedef std::vector<std::pair<F *Gradients::*, int64_t>> Sizes;

  Sums(const Gradients &all, const Sizes &sizes, size_t shares) : all(all) {
    for (auto [member, size] : sizes)
      if (all.*member) {
        parts.push_back({member, size, std::vector<F>((shares - 1) * size)});
        bytes_taken += int64_t((shares - 1) * size * sizeof(F));
      }
  }
  Gradients of_share(int i) {
    Gradients mine = all;
    for (auto &part : parts)
      if (i > 0) mine.*part.member = part.others.data() + (i - 1) * part.size;
    return mine;
  }
  void add_up() {
    for (auto &part : parts)
      for (size_t from = 0; from < part.others.size(); from += part.size)
        for (int64_t at = 0; at < part.size; at++) (all.*part.member)[at] += part.others[from + at];
  }

 private:
  struct Part {
    F *Gradients::*member;
    int64_t size;
    std::vector<F> others;
  };
  const Gradients all;
  std::vector<Part> parts;
};

template <class F> static const Layers<F> &layers();
template <> const Layers<float> &layers<float>() { return chosen->single; }
template <> const Layers<double> &layers<double>() { return chosen->twice; }

// Addresses, in the order in which table.hpp has them.
template <class Pointers>
using Addresses = std::array<uintptr_t, sizeof(Pointers) / sizeof(void *)>;
template <class Pointers> static Pointers at(const Addresses<Pointers> &addresses) {
  static_assert(sizeof(Pointers) == sizeof(addresses), "a struct of nothing but addresses");
  Pointers pointers;
  std::memcpy(&pointers, addresses.data(), sizeof(pointers));
  return pointers;
}

// (T, B, rows, starts, resets, reversed), and how many threads.
#define SEQUENCE int64_t T, int64_t B, uintptr_t rows, uintptr_t starts, uintptr_t resets, bool reversed, int threads
#define MAKE_SEQUENCE                                                                        \
  Sequence s {                                                                               \
    T, B, reinterpret_cast<int64_t *>(rows), reinterpret_cast<int64_t *>(starts),            \
        reinterpret_cast<uint8_t *>(resets), reversed                                        \
  }

template <class F> static void bind(nb::module_ &m, const std::string &type) {
  using gil = nb::call_guard<nb::gil_scoped_release>;
  m.def(("elman_forward_" + type).c_str(),
        [](SEQUENCE, int I, int H, bool relu, const Addresses<Elman<F>> &net) {
          MAKE_SEQUENCE;
          for_each(shares(s, threads), [&](Share share, int) {
            return layers<F>().elman_forward(s, share, I, H, relu, at<Elman<F>>(net));
          });
        },
        gil());
  m.def(("elman_backward_" + type).c_str(),
        [](SEQUENCE, int I, int H, bool relu, const Addresses<Elman<F>> &net,
           const Addresses<ElmanGradients<F>> &grad) {
          MAKE_SEQUENCE;
          using G = ElmanGradients<F>;
          auto cut = shares(s, threads);
          int64_t h = H, i = I;
          Sums<F, G> sums(at<G>(grad), {{&G::W, h * h}, {&G::U, h * i}, {&G::b, h}}, cut.size());
          for_each(cut, [&](Share share, int which) {
            return layers<F>().elman_backward(s, share, I, H, relu, at<Elman<F>>(net), sums.of_share(which));
          });
          sums.add_up();
        },
        gil());
  m.def(("looped_forward_" + type).c_str(),
        [](SEQUENCE, int I, int H, bool relu, const std::vector<int64_t> &delays, const Addresses<Looped<F>> &net) {
          MAKE_SEQUENCE;
          Delays d{delays.data(), int(delays.size())};
          for_each(shares(s, threads), [&](Share share, int) {
            return layers<F>().looped_forward(s, share, I, H, relu, d, at<Looped<F>>(net));
          });
        },
        gil());
  m.def(("looped_backward_" + type).c_str(),
        [](SEQUENCE, int I, int H, bool relu, const std::vector<int64_t> &delays, double omega,
           const Addresses<Looped<F>> &net, const Addresses<LoopedGradients<F>> &grad) {
          MAKE_SEQUENCE;
          using G = LoopedGradients<F>;
          auto cut = shares(s, threads);
          Delays d{delays.data(), int(delays.size())};
          int64_t h = H, i = I;
          Sums<F, G> sums(at<G>(grad),
                          {{&G::W, d.count * h * h}, {&G::U, h * i}, {&G::b, h}, {&G::leak, h}, {&G::gain, h},
                           {&G::shift, h}, {&G::omega, 1}},
                          cut.size());
          for_each(cut, [&](Share share, int which) {
            return layers<F>().looped_backward(s, share, I, H, relu, d, F(omega), at<Looped<F>>(net),
                                               sums.of_share(which));
          });
          sums.add_up();
        },
        gil());
  m.def(("gru_forward_" + type).c_str(),
        [](SEQUENCE, int I, int H, const Addresses<Gru<F>> &net) {
          MAKE_SEQUENCE;
          for_each(shares(s, threads), [&](Share share, int) {
            return layers<F>().gru_forward(s, share, I, H, at<Gru<F>>(net));
          });
        },
        gil());
  m.def(("gru_backward_" + type).c_str(),
        [](SEQUENCE, int I, int H, const Addresses<Gru<F>> &net, const Addresses<GruGradients<F>> &grad) {
          MAKE_SEQUENCE;
          using G = GruGradients<F>;
          auto cut = shares(s, threads);
          int64_t h = H, g = 3 * h;
          Sums<F, G> sums(at<G>(grad), {{&G::W, g * h}, {&G::c, g}, {&G::U, g * I}, {&G::b, g}}, cut.size());
          for_each(cut, [&](Share share, int which) {
            return layers<F>().gru_backward(s, share, I, H, at<Gru<F>>(net), sums.of_share(which));
          });
          sums.add_up();
        },
        gil());
  m.def(("free_run_" + type).c_str(),
        [](const std::array<int64_t, 5> &sizes, int threads, bool relu, bool each_p, int kind, double temperature,
           const std::vector<Addresses<FreeLayer<F>>> &addresses, const Addresses<Free<F>> &net) {
          auto [T, B, H, O, Y] = sizes;
          std::vector<FreeLayer<F>> layers_at;
          for (auto &layer : addresses) layers_at.push_back(at<FreeLayer<F>>(layer));
          bool is_likeliest = temperature < std::numeric_limits<F>::min();
          FreeSizes free{T, B, int(H), int(O), int(Y), int(layers_at.size()), each_p, Kind(kind),
                         is_likeliest, is_likeliest ? 0 : 1 / temperature};
          Sequence s{T, B, nullptr, nullptr, nullptr, false};
          for_each(shares(s, threads), [&](Share share, int) {
            return layers<F>().free_run(free, share, relu, layers_at.data(), at<Free<F>>(net));
          });
        },
        gil());
  m.def(("tanh_" + type).c_str(),
        [](uintptr_t x, uintptr_t y, int64_t n) {
          layers<F>().tanh(reinterpret_cast<const F *>(x), reinterpret_cast<F *>(y), n);
        },
        gil());
}

NB_MODULE(native, m) {
  m.doc() = "Recurrent layers over whole sequences, on addresses that Python has checked.";
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  m.def("use_crew", [](uintptr_t address) {
    crew = reinterpret_cast<Crew>(address);
    crew_of = getpid();
  });
  m.def("bytes_taken", [] { return bytes_taken.exchange(0); });
  m.def("instruction_set", [] { return std::string(chosen->name); });
  m.def("use", [](const std::string &name) {
    const Build *build = named(name);
    if (build) chosen = build;
    return build != nullptr;
  });
}
