// Host side of a launch: device, errors, alignment and the shape of the grid.
#pragma once

#include "common/cuda_compat.h"
#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

constexpr int kWarp = 32;
// Threads, unless a kernel says otherwise. Kernels with divisions in their setup say in their
// __launch_bounds__ how many blocks an SM has room for: left to itself the compiler spills around
// divisions to save registers, or takes twice as many as it needs.
constexpr int kBlock = 256;

// Null, or what went wrong. The runtime forgets it: it would report it again after the next launch.
inline const char* error_of(cudaError_t status) {
  if (status == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(status);
}

// Makes `device` current for the calls in its scope. The ops have made it current already: going
// back to a device that nothing has used yet would create a context there.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = error_of(cudaGetDevice(&previous_));
    if (error_ || previous_ == device) return;
    error_ = error_of(cudaSetDevice(device));
    changed_ = !error_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  const char* error() const { return error_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  const char* error_ = nullptr;
};

// Null if the launch before this went well.
inline const char* launch_error() { return error_of(cudaGetLastError()); }

// Runs launch() on `device`.
template <typename Launch>
const char* on_device(int device, const Launch& launch) {
  const DeviceGuard guard(device);
  return guard.error() ? guard.error() : launch();
}

inline bool aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

// Elements in 128 bits.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// The same for channels-last kernels, whose threads keep state per channel and so stop at four.
template <typename T>
constexpr int kChannelVector = kVector<T> < 4 ? kVector<T> : 4;

inline unsigned power_of_two_covering(int64_t value, unsigned limit) {
  unsigned power = 1;
  while (power < limit && power < value) power *= 2;
  return power;
}

inline unsigned clamped(int64_t value, int64_t high) {
  return static_cast<unsigned>(larger(1, smaller(value, high)));
}

constexpr int64_t kMaxGridX = 0x7FFFFFFF;
constexpr int64_t kMaxGridY = 65535;

// Null if a grid can have that many blocks along x. Beyond that the number would wrap around, and
// most of the tensor would silently be left out.
inline const char* grid_error(int64_t blocks) {
  return blocks <= kMaxGridX ? nullptr : "more than 2^31 - 1 blocks: divide the tensor";
}

struct Launch {
  dim3 grid, block;
};

// Threads x along `columns`, y (and grid y) along `rows`; kernels loop where the grid ends early.
// `per_thread` iterations along each axis are wanted before another block is added.
inline Launch cover(int64_t rows, int64_t columns, int64_t rows_per_thread,
                    int64_t columns_per_thread, unsigned widest = kBlock) {
  const unsigned x = power_of_two_covering(columns, widest);
  const unsigned y = kBlock / x;
  return {dim3(clamped(ceil_div(columns, x * columns_per_thread), kMaxGridX),
               clamped(ceil_div(rows, y * rows_per_thread), kMaxGridY)),
          dim3(x, y)};
}

}  // namespace HAST_BACKEND
}  // namespace hast
