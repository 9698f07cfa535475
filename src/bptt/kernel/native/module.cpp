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
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory.hpp"
#include "table.hpp"
#include "tensor.hpp"

namespace nb = nanobind;

static std::atomic<int64_t> bytes_taken{0};  // since Python last asked

constexpr size_t head = 64;  // each block begins with its size

static size_t whole(size_t bytes) { return (bytes + head + 63) / 64 * 64; }

void count_as_taken(size_t bytes) { bytes_taken += int64_t(bytes); }

void *take(size_t bytes) {
  count_as_taken(bytes);
  size_t size = whole(bytes);
  void *block = size < large ? aligned_alloc(64, size)
                             : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
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

// Lets the system give memory that nothing was written to yet in large pages, of which a few are there sooner
// than many small ones. It may leave it.
static void use_large_pages(uintptr_t at, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), first = (at + page - 1) / page * page, last = (at + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#endif
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
  std::atomic<Outcome> outcome{DONE};
  in_parallel(int(cut.size()), [&](int i) {
    Outcome mine = work(cut[i], i);
    if (mine != DONE) outcome = mine;
  });
  if (outcome == NO_MEMORY) throw std::bad_alloc();
  if (outcome == NO_SUCH_ROW) throw std::out_of_range("a table has no such row");
}

template <class F> static const Layers<F> &layers();
template <> const Layers<float> &layers<float>() { return chosen->single; }
template <> const Layers<double> &layers<double>() { return chosen->twice; }

// A program, made once of the tables that kernel/lower.py writes.
class Tables {
 public:
  template <class T> using Rows = std::vector<std::array<int32_t, sizeof(T) / sizeof(int32_t)>>;

  Tables(int p, int of_p, const Rows<State> &states, const Rows<Array> &arrays, const Rows<Instruction> &instructions,
         const Rows<Stage> &stages, const Rows<Product> &products, const Rows<Part> &parts, const Rows<Block> &blocks,
         const Rows<Group> &groups, const Rows<Sum> &sums, const Rows<LookUp> &look_ups, std::vector<double> constants)
      : states(as<State>(states)), arrays(as<Array>(arrays)), instructions(as<Instruction>(instructions)),
        stages(as<Stage>(stages)), products(as<Product>(products)), parts(as<Part>(parts)), blocks(as<Block>(blocks)),
        groups(as<Group>(groups)), sums(as<Sum>(sums)),
        look_ups(as<LookUp>(look_ups)), constants(std::move(constants)), placed(by_place(this->arrays)),
        program{p,
                of_p,
                list(this->states),
                list(this->arrays),
                list(this->instructions),
                list(this->stages),
                list(this->products),
                list(this->parts),
                list(this->blocks),
                list(this->groups),
                list(this->sums),
                list(this->look_ups),
                list(this->constants)} {
    for (int place = 0; place < places; place++) program.placed[place] = list(placed[place]);
  }
  Tables(const Tables &) = delete;
  Tables &operator=(const Tables &) = delete;

 private:
  template <class T> static std::vector<T> as(const Rows<T> &rows) {
    std::vector<T> table(rows.size());
    if (!rows.empty()) std::memcpy(static_cast<void *>(table.data()), rows.data(), rows.size() * sizeof(T));
    return table;
  }
  static std::array<std::vector<int32_t>, places> by_place(const std::vector<Array> &arrays) {
    std::array<std::vector<int32_t>, places> placed;
    for (size_t a = 0; a < arrays.size(); a++) placed[arrays[a].place].push_back(int32_t(a));
    return placed;
  }
  template <class T> static List<T> list(const std::vector<T> &items) { return {items.data(), int32_t(items.size())}; }

  const std::vector<State> states;
  const std::vector<Array> arrays;
  const std::vector<Instruction> instructions;
  const std::vector<Stage> stages;
  const std::vector<Product> products;
  const std::vector<Part> parts;
  const std::vector<Block> blocks;
  const std::vector<Group> groups;
  const std::vector<Sum> sums;
  const std::vector<LookUp> look_ups;
  const std::vector<double> constants;
  const std::array<std::vector<int32_t>, places> placed;

 public:
  Program program;
};

// What a run of a program reads and writes, from the addresses that Python gives.
typedef std::vector<uintptr_t> Several;
template <class F> static List<F *> rows_at(const Several &addresses) {
  static_assert(sizeof(F *) == sizeof(uintptr_t), "addresses are whole numbers");
  return {reinterpret_cast<F *const *>(addresses.data()), int32_t(addresses.size())};
}
template <class F> class Bound {
 public:
  Bound(const Several &input, const Several &starts, const Several &states, const Several &saved,
        const std::vector<std::array<int64_t, 4>> &weights, int whole) {
    for (auto [at, down, across, rows] : weights)
      these.push_back({reinterpret_cast<const F *>(at), down, across, rows});
    run = {reinterpret_cast<const F *>(input[0]),
           reinterpret_cast<const int64_t *>(input[1]),
           reinterpret_cast<const F *>(input[2]),
           reinterpret_cast<const F *>(input[3]),
           reinterpret_cast<const F *>(input[4]),
           reinterpret_cast<const F *>(input[5]),
           rows_at<const F>(starts),
           rows_at<F>(states),
           rows_at<F>(saved),
           {these.data(), int32_t(these.size())},
           whole};
  }
  Run<F> run;

 private:
  std::vector<Weight<F>> these;
};

// The gradients of every share but the first, in memory of its own, which is added in order, so that
// the same shares give the same bits.
template <class F> class SharedGradients {
 public:
  SharedGradients(const RunGradients<F> &all, const std::vector<int64_t> &sizes, int64_t of_U, int64_t of_b, size_t shares)
      : all(all) {
    for (size_t i = 0; i < sizes.size(); i++) parts.push_back({all.weights[i], all.weights[i] ? sizes[i] : 0});
    parts.push_back({all.U, all.U ? of_U : 0});
    parts.push_back({all.b, all.b ? of_b : 0});
    parts.push_back({all.of_omega, all.of_omega ? 1 : 0});
    for (auto [at, size] : parts) total += size;
    for (size_t i = 0; i < sizes.size(); i++)
      if (parts[i].first) std::memset(parts[i].first, 0, parts[i].second * sizeof(F));
    others.resize((shares - 1) * total);
    bytes_taken += int64_t(others.size() * sizeof(F));
    for (size_t share = 0; share < shares; share++) {
      std::vector<F *> mine;
      F *at = share ? others.data() + (share - 1) * total : nullptr;
      for (auto [first, size] : parts) {
        mine.push_back(share && first ? at : first);
        at += share ? size : 0;
      }
      pointers.push_back(mine);
    }
  }
  RunGradients<F> of_share(int i) const {
    RunGradients<F> mine = all;
    size_t weights = parts.size() - 3;
    mine.weights = {pointers[i].data(), int32_t(weights)};
    mine.U = pointers[i][weights];
    mine.b = pointers[i][weights + 1];
    mine.of_omega = pointers[i][weights + 2];
    return mine;
  }
  void add_up() const {
    for (size_t share = 1; share < pointers.size(); share++)
      for (size_t i = 0; i < parts.size(); i++)
        for (int64_t at = 0; at < parts[i].second; at++) parts[i].first[at] += pointers[share][i][at];
  }

 private:
  const RunGradients<F> all;
  std::vector<std::pair<F *, int64_t>> parts;
  int64_t total = 0;
  std::vector<F> others;
  std::vector<std::vector<F *>> pointers;
};

// One step of a program that reads W, and its bias if it has one; the other biases are added to U x. All
// tensors are torch's own: x (B, I), parts of the state (B, H), as many for the new ones, and U, W and
// either no bias or two. False, and nothing is written, where one is not dense, on the CPU, and of these
// shapes.
template <class F>
static bool step(const Tables &tables, nb::list rows, nb::list fresh, nb::tuple weights, int I, int H, bool reads_bias,
                 int threads, double work_for_a_thread) {
  PyObject *x = PyList_GetItem(rows.ptr(), 0);
  const int states = int(rows.size()) - 1, G = tables.program.p;
  auto weight = [&](int which) { return PyTuple_GetItem(weights.ptr(), which); };
  const bool has_biases = weight(2) != Py_None;
  View first;
  if (exchange->view(x, &first) != 0) return PyErr_Clear(), false;
  const int64_t B = first.dimensions == 2 ? first.shape[0] : 0;
  if (B == 0) return false;
  auto at = [](F *place) { return reinterpret_cast<uintptr_t>(place); };
  F *W = numbers<F>(weight(1), {G, H}), *b_ih = nullptr, *b_hh = nullptr;
  Several input = {at(numbers<F>(x, {B, I})), 0, at(numbers<F>(weight(0), {G, I}))}, starts, ends;
  bool are_there = W && input[0] && input[2];
  if (has_biases) {
    b_ih = numbers<F>(weight(2), {G});
    b_hh = numbers<F>(weight(3), {G});
    are_there = are_there && b_ih && b_hh;
  }
  input.insert(input.end(), {at(b_ih), reads_bias ? 0 : at(b_hh), 0});
  for (int k = 0; k < states && are_there; k++) {
    starts.push_back(at(numbers<F>(PyList_GetItem(rows.ptr(), k + 1), {B, H})));
    ends.push_back(at(numbers<F>(PyList_GetItem(fresh.ptr(), k), {B, H})));
    are_there = starts.back() && ends.back();
  }
  if (!are_there) return false;
  std::vector<std::array<int64_t, 4>> inside = {{int64_t(at(W)), 1, H, H}};
  if (reads_bias) inside.push_back({int64_t(at(b_hh)), 0, 1, 1});
  nb::gil_scoped_release others_may_go_on;
  Bound<F> bound(input, starts, ends, {}, inside, states);
  Sequence one{1, B, nullptr, nullptr, nullptr, false};
  const double work = 2.0 * double(B) * G * (I + H);
  for_each(shares(one, work > work_for_a_thread ? threads : 1), [&](Share share, int) {
    return layers<F>().loop_forward(tables.program, one, share, I, bound.run);
  });
  return true;
}

// Writes the gradients of the last states, (farthest, B, width), or zeros where there is none, to where
// those of the first ones are to be.
template <class F>
static void begin_with(const Program &program, int64_t B, List<const F *> lasts, List<F *> arrived) {
  for (int k = 0; k < program.states.count; k++) {
    const size_t size = program.states[k].farthest * B * program.states[k].width * sizeof(F);
    if (lasts[k])
      std::memcpy(arrived[k], lasts[k], size);
    else
      std::memset(arrived[k], 0, size);
  }
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
  typedef std::vector<std::array<int64_t, 4>> Weights;
  m.def(("loop_forward_" + type).c_str(),
        [](const Tables &tables, SEQUENCE, int I, const Several &input, const Several &starts_at, const Several &states,
           const Several &saved, const Weights &weights, int whole) {
          MAKE_SEQUENCE;
          Bound<F> bound(input, starts_at, states, saved, weights, whole);
          for_each(shares(s, threads), [&](Share share, int) {
            return layers<F>().loop_forward(tables.program, s, share, I, bound.run);
          });
        },
        gil());
  m.def(("step_" + type).c_str(), &step<F>);
  m.def(("loop_backward_" + type).c_str(),
        [](const Tables &tables, SEQUENCE, int I, const Several &input, const Several &starts_at, const Several &states,
           const Several &saved, const Weights &weights, const Several &above, const Several &lasts,
           const Several &arrived, const Several &of_input, const Several &of_weights, const std::vector<int64_t> &sizes, double omega,
           uintptr_t of_omega, bool is_relu) {
          MAKE_SEQUENCE;
          Bound<F> bound(input, starts_at, states, saved, weights, int(states.size()));
          RunGradients<F> all{rows_at<const F>(above),
                              rows_at<F>(arrived),
                              reinterpret_cast<F *>(of_input[0]),
                              reinterpret_cast<F *>(of_input[1]),
                              reinterpret_cast<F *>(of_input[2]),
                              reinterpret_cast<F *>(of_input[3]),
                              rows_at<F>(of_weights),
                              F(omega),
                              reinterpret_cast<F *>(of_omega),
                              is_relu};
          begin_with<F>(tables.program, B, rows_at<const F>(lasts), all.arrived);
          auto cut = shares(s, threads);
          int64_t G = tables.program.p;
          SharedGradients<F> gradients(all, sizes, G * I, G, cut.size());
          for_each(cut, [&](Share share, int which) {
            return layers<F>().loop_backward(tables.program, s, share, I, bound.run, gradients.of_share(which));
          });
          gradients.add_up();
        },
        gil());
  m.def(("tanh_" + type).c_str(),
        [](uintptr_t x, uintptr_t y, int64_t n) {
          layers<F>().tanh(reinterpret_cast<const F *>(x), reinterpret_cast<F *>(y), n);
        },
        gil());
}

NB_MODULE(native, m) {
  m.doc() = "Steps over whole sequences, on addresses that Python has checked.";
  nb::set_leak_warnings(false);  // programs are cached until the process ends
  nb::class_<Tables>(m, "Program")
      .def(nb::init<int, int, const Tables::Rows<State> &, const Tables::Rows<Array> &, const Tables::Rows<Instruction> &,
                    const Tables::Rows<Stage> &, const Tables::Rows<Product> &, const Tables::Rows<Part> &,
                    const Tables::Rows<Block> &, const Tables::Rows<Group> &, const Tables::Rows<Sum> &, const Tables::Rows<LookUp> &, std::vector<double>>());
  bind<float>(m, "float32");
  bind<double>(m, "float64");
  m.def("use_crew", [](uintptr_t address) {
    crew = reinterpret_cast<Crew>(address);
    crew_of = getpid();
  });
  m.def("read_tensors_by", &read_tensors_by);
  m.def("use_large_pages", &use_large_pages);
  m.def("bytes_taken", [] { return bytes_taken.exchange(0); });
  m.def("instruction_set", [] { return std::string(chosen->name); });
  m.def("use", [](const std::string &name) {
    const Build *build = named(name);
    if (build) chosen = build;
    return build != nullptr;
  });
}
