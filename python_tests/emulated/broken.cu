// Kernels with planted mistakes: the tests of the emulator must notice every one.
#include <cuda_shim.h>

namespace {

constexpr unsigned kThreads = 64;

// reversed[i] = x[n - 1 - i] through shared memory, without the barrier in between.
__global__ void missing_barrier(const float* x, float* y) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

__global__ void with_barrier(const float* x, float* y) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

__global__ void barrier_in_a_branch(const float* x, float* y) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void barrier_for_some(const float* x, float* y) {
  if (threadIdx.x < 40) __shfl_xor_sync(0xFFFFFFFFu, x[threadIdx.x], 1);
  y[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
}

__global__ void shuffle_after_exit(const float* x, float* y) {
  if (threadIdx.x % 2 == 0) return;
  y[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, x[threadIdx.x], 1);
}

}  // namespace

extern "C" const char* run(int which, const float* x, float* y) {
  using Kernel = void (*)(const float*, float*);
  const Kernel kernels[] = {with_barrier, missing_barrier, barrier_in_a_branch, barrier_for_some,
                            shuffle_after_exit};
  const Kernel kernel = kernels[which];
  HAST_LAUNCH(kernel, dim3(1), dim3(kThreads), 0, nullptr, x, y);
  return cudaGetErrorString(cudaGetLastError());
}
