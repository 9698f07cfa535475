// How to look at one of torch's tensors without linking to torch: by the functions of its class's
// __dlpack_c_exchange_api__ (DLPack 1.3; torch 2.10 and later).
#pragma once
#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>

// What DLPack lays down for any library; of the functions before the one that is called here, and of a
// tensor's numbers, only the sizes matter.
struct View {
  void *data;
  int32_t device, which_device, dimensions;
  uint8_t type, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t offset;
};
struct Exchange {
  uint32_t major, minor;
  const Exchange *older;
  void (*allocate)(), (*lend)(), (*take_back)();
  int (*view)(void *tensor, View *out);
};
static_assert(sizeof(View) == 48 && sizeof(Exchange) == 48, "as DLPack has them");

static const Exchange *exchange = nullptr;

// Takes the functions, unless they are of another version, or lack the one that is called here.
static bool read_tensors_by(nanobind::capsule functions) {
  auto *offered = static_cast<const Exchange *>(functions.data("dlpack_exchange_api"));
  while (offered && offered->major > 1) offered = offered->older;
  exchange = offered && offered->major == 1 && offered->view ? offered : nullptr;
  return exchange != nullptr;
}

// Where a tensor's numbers lie if it is dense, on the CPU, of this type and shape, else nullptr.
template <class F> static F *numbers(PyObject *tensor, std::initializer_list<int64_t> shape) {
  constexpr int32_t cpu = 1;
  constexpr uint8_t floating = 2;
  View view;
  if (exchange->view(tensor, &view) != 0) {
    PyErr_Clear();  // such a tensor cannot be described: a sparse one, or on no device
    return nullptr;
  }
  if (view.device != cpu || view.type != floating || view.bits != 8 * sizeof(F) || view.lanes != 1) return nullptr;
  if (view.dimensions != int32_t(shape.size())) return nullptr;
  int64_t expected = 1;
  for (int i = view.dimensions - 1; i >= 0; i--) {
    int64_t size = shape.begin()[i];
    if (view.shape[i] != size || (size != 1 && view.strides[i] != expected)) return nullptr;
    expected *= size;
  }
  return view.data ? reinterpret_cast<F *>(static_cast<char *>(view.data) + view.offset) : nullptr;
}
