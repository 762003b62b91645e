// Kernels with planted mistakes: the tests of the emulator must notice every one.
//
// As a library: run(name, x, y) on 64 floats each. As a program (HAST_BROKEN_PROGRAM): the name is
// its argument, for the mistakes that end a process.
#include <stdio.h>

#include "common/cuda_vector.h"

namespace {

using namespace hast;

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

__global__ void shuffle_names_exited_lane(const float* x, float* y) {
  if (threadIdx.x % 2 == 1) return;
  y[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, x[threadIdx.x], 2);
}

__global__ void one_element_unwritten(const float* x, float* y) {
  if (threadIdx.x + 1 < kThreads) y[threadIdx.x] = x[threadIdx.x];
}

__global__ void shared_memory_unwritten(const float* x, float* y) {
  __shared__ float values[kThreads];
  if (threadIdx.x + 1 < kThreads) values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x];
}

__global__ void read_past_the_end(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }

__global__ void write_past_the_end(const float* x, float* y) {
  y[threadIdx.x + 1] = x[threadIdx.x];
}

__global__ void write_past_shared_memory(const float* x, float* y) {
  __shared__ float values[kThreads];
  values[threadIdx.x + 1] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x];
}

// After a barrier, where every thread runs on a stack of the emulator.
__global__ void read_past_the_end_late(const float* x, float* y) {
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x + 1];
}

__global__ void misaligned_load(const float* x, float* y) {
  if (threadIdx.x == 0) y[0] = load_packed<4>(x + 1).values[0];
}

__global__ void misaligned_store(const float* x, float* y) {
  if (threadIdx.x == 0) store_packed<4>(y + 2, load_packed<4>(x));
}

__global__ void no_value_of_its_type(const float* x, float* y) {
  const volatile int stored = static_cast<int>(x[0]) + 7;
  y[threadIdx.x] = *reinterpret_cast<const volatile bool*>(&stored) ? 1.0f : 0.0f;
}

// What only the whole of `undefined` finds. Values come from memory: a compiler must not see them.
__global__ void number_too_large(const float* x, float* y) {
  y[threadIdx.x] = static_cast<float>(static_cast<int>(x[threadIdx.x] + 1e30f));
}

__global__ void division_by_zero(const float* x, float* y) {
  y[threadIdx.x] = static_cast<float>(7 / static_cast<int>(x[0]));
}

__global__ void null_pointer(const float* x, float* y) {
  const float* source = x[0] > 1.0f ? x : nullptr;
  y[threadIdx.x] = source[0];
}

__global__ void pointer_beyond_memory(const float* x, float* y) {
  const size_t far = (size_t{1} << 61) + static_cast<size_t>(x[0]);
  y[threadIdx.x] = &x[far] > y ? 1.0f : 0.0f;
}

__global__ void no_bits_to_count(const float* x, float* y) {
  y[threadIdx.x] = static_cast<float>(__builtin_clz(static_cast<unsigned>(x[0])));
}

struct Named {
  const char* name;
  void (*kernel)(const float*, float*);
};
#define NAMED(kernel) {#kernel, kernel}
constexpr Named kKernels[] = {
    NAMED(with_barrier),
    NAMED(missing_barrier),
    NAMED(barrier_in_a_branch),
    NAMED(barrier_for_some),
    NAMED(shuffle_after_exit),
    NAMED(shuffle_names_exited_lane),
    NAMED(one_element_unwritten),
    NAMED(shared_memory_unwritten),
    NAMED(read_past_the_end),
    NAMED(write_past_the_end),
    NAMED(write_past_shared_memory),
    NAMED(read_past_the_end_late),
    NAMED(misaligned_load),
    NAMED(misaligned_store),
    NAMED(number_too_large),
    NAMED(division_by_zero),
    NAMED(null_pointer),
    NAMED(no_value_of_its_type),
    NAMED(pointer_beyond_memory),
    NAMED(no_bits_to_count),
};

}  // namespace

extern "C" const char* run(const char* name, const float* x, float* y) {
  for (const Named& entry : kKernels) {
    if (strcmp(entry.name, name) != 0) continue;
    const auto kernel = entry.kernel;
    HAST_LAUNCH(kernel, dim3(1), dim3(kThreads), 0, nullptr, x, y);
    return cudaGetErrorString(cudaGetLastError());
  }
  return "no kernel of that name";
}

#ifdef HAST_BROKEN_PROGRAM
int main(int, char** arguments) {
  const std::vector<float> x(kThreads);
  std::vector<float> y(kThreads);
  const char* error = run(arguments[1], x.data(), y.data());
  fputs(error, stdout);
  return *error != 0;
}
#endif
