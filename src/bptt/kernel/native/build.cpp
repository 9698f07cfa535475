// Compiled once per instruction set; see CMakeLists.txt.
#include "table.hpp"

#include "loop.hpp"

#define NAME_OF(isa) #isa
#define NAME(isa) NAME_OF(isa)
#define BUILD_OF(isa) isa##_build
#define BUILD(isa) BUILD_OF(isa)

namespace BPTT_ISA {

template <class F> static void tanh_of(const F *x, F *y, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes<F>) {
    int count = n - i < lanes<F> ? int(n - i) : lanes<F>;
    store<F>(y + i, tanh(load<F>(x + i, count)), count);
  }
}

template <class F> constexpr Layers<F> layers() {
  return {loop_forward<F>, loop_backward<F>, tanh_of<F>};
}

}  // namespace BPTT_ISA

extern const Build BUILD(BPTT_ISA) = {NAME(BPTT_ISA), BPTT_ISA::layers<float>(), BPTT_ISA::layers<double>()};
