// What the binding files share: argument checks (sizes, codes, list lengths and required pointers,
// before any kernel sees them; violations raise ValueError, shapes and devices were checked in
// Python) and the call of a backend without the GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <stdint.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "common/activation.h"
#include "common/dtype.h"

namespace hast::bindings {

using Address = uintptr_t;
using Addresses = std::vector<Address>;
using Sizes = std::vector<int64_t>;

template <typename T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  [[noreturn]] void fail(const std::string& message) const {
    throw std::invalid_argument("hast_cuda." + std::string(op_) + ": " + message);
  }

  DType dtype(int code) const {
    if (code < 0 || code > 3)
      fail("unknown dtype code " + std::to_string(code) + ", expected 0..3");
    return static_cast<DType>(code);
  }

  Activation activation(int code) const {
    if (code < 0 || code > 2) {
      fail("unknown activation code " + std::to_string(code) + ", expected 0..2");
    }
    return static_cast<Activation>(code);
  }

  int bits(int64_t bits) const {
    if (bits < 2 || bits > 8) fail("bits must be in 2..8, got " + std::to_string(bits));
    return static_cast<int>(bits);
  }

  void size(const char* name, int64_t size, int64_t least = 0) const {
    if (size >= least) return;
    fail(std::string(name) + " must be at least " + std::to_string(least) + ", got " +
         std::to_string(size));
  }

  // Whether there is anything to do; the product of the sizes must be a valid number of elements.
  bool tensor(int64_t outer, int64_t channels, int64_t inner) const {
    size("outer", outer);
    size("channels", channels);
    size("inner", inner);
    int64_t elements = 0;
    if (__builtin_mul_overflow(outer, channels, &elements) ||
        __builtin_mul_overflow(elements, inner, &elements) || elements > INT64_MAX / 8) {
      fail("the tensor has too many elements");
    }
    return elements > 0;
  }

  void required(const char* name, Address address) const {
    if (address == 0) fail(std::string(name) + " is a null pointer");
  }

  void length(const char* name, size_t length, size_t expected) const {
    if (length == expected) return;
    fail(std::string(name) + " has " + std::to_string(length) + " entries, expected " +
         std::to_string(expected));
  }

 private:
  const char* op_;
};

inline const Backend& backend_of(const char* op, int device) {
  if (device == -1) return cpu_backend();
  if (device < -1)
    Checks(op).fail("device must be -1 or a CUDA index, got " + std::to_string(device));
  if (const Backend* backend = cuda_backend()) return *backend;
  throw std::runtime_error("hast_cuda." + std::string(op) +
                           ": built without CUDA, see hast_cuda.build_info()");
}

template <typename Args>
void call(const char* op, const char* (*Backend::*function)(const Args&), const Args& args) {
  const Backend& backend = backend_of(op, args.device);
  const char* error = nullptr;
  {
    const pybind11::gil_scoped_release release;
    error = (backend.*function)(args);
  }
  if (error) throw std::runtime_error("hast_cuda." + std::string(op) + ": " + error);
}

void define_quantization(pybind11::module_& module);
void define_batch_norm(pybind11::module_& module);
void define_statistics(pybind11::module_& module);
void define_attention(pybind11::module_& module);
void define_losses(pybind11::module_& module);

}  // namespace hast::bindings
