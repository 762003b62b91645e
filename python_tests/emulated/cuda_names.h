// The names that CUDA gives to what the emulator does. Included by cuda_shim.h only.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define HAST_JOINED(name, line) name##line
#define HAST_SCOPE(line) HAST_JOINED(hast_scope_, line)
#define __shared__                             \
  static emulated::Scope HAST_SCOPE(__LINE__); \
  emulated::enter(HAST_SCOPE(__LINE__));       \
  static

#define threadIdx (emulated::view.thread->index)
#define blockIdx (*emulated::view.block)
#define blockDim (emulated::view.block_size)
#define gridDim (emulated::view.grid_size)
#define HAST_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ((void)(stream), (void)(shared),                            \
   emulated::launch_closure(grid, block, [=] { kernel(__VA_ARGS__); }))

namespace emulated {

template <typename Closure>
void launch_closure(dim3 grid, dim3 block, const Closure& kernel) {
  const auto call = [](const void* it) { (*static_cast<const Closure*>(it))(); };
  launch(grid, block, call, &kernel);
}

// Waits until every lane of the mask has brought its value; where the values then lie.
template <typename T>
const uint64_t* bring(uint32_t mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return exchange(mask, bits);
}

template <typename T>
T value_of(const uint64_t* values, unsigned lane) {
  T value;
  memcpy(&value, &values[lane], sizeof value);
  return value;
}

}  // namespace emulated

inline void __syncthreads(int line = __builtin_LINE()) { emulated::barrier(line); }
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits) {
  const uint64_t* values = emulated::bring(mask, value);
  const unsigned rank = emulated::view.thread->rank;
  return emulated::value_of<T>(values, (rank ^ static_cast<unsigned>(bits)) % emulated::kLanes);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  const uint64_t* values = emulated::bring(mask, predicate);
  uint32_t ballot = 0;
  for (unsigned lane = 0; lane < emulated::kLanes; ++lane) {
    if (mask >> lane & 1 && emulated::value_of<int>(values, lane)) ballot |= 1u << lane;
  }
  return ballot;
}
inline void __threadfence() { ++emulated::fences; }
inline unsigned atomicInc(unsigned* counter, unsigned limit) {
  const unsigned old = *counter;
  *counter = old >= limit ? 0 : old + 1;
  emulated::end_turn();
  return old;
}

enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure, cudaErrorInvalidDevice };
namespace emulated {
inline cudaError_t last_error = cudaSuccess;  // of the runtime: cudaGetLastError gives it once
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : emulated::last_error = cudaErrorInvalidDevice;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetLastError() {
  const cudaError_t kept = emulated::last_error;
  emulated::last_error = cudaSuccess;
  if (kept != cudaSuccess || *emulated::launch_error() == '\0') return kept;
  return cudaErrorLaunchFailure;
}

// Streams: there is one, which nothing captures.
using cudaStream_t = void*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status,
                                            unsigned long long*) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return *memory = malloc(bytes), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  return memset(memory, value, bytes), cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidDevice ? "invalid device ordinal" : emulated::launch_error();
}
