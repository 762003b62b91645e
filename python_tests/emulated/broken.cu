// Kernels with planted mistakes: the tests of the emulator must notice every one.
//
// As a library: run(name, x, y) on 64 floats each, in one block or eight. As a program
// (HAST_BROKEN_PROGRAM): the name is its argument, for the mistakes that end a process.
#include <math.h>
#include <stdio.h>

#include <vector>

#include "common/cuda_reduce.h"
#include "common/cuda_vector.h"

namespace {

using namespace hast;

constexpr unsigned kThreads = 64, kBlocks = 8;

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

// The sum of x in y[0] over blocks, as the kernels do it: partial sums, then the last block.
float partials[kBlocks];
unsigned counter;

__device__ float partial_sum(const float* x) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float sum = 0.0f;
  for (unsigned i = blockIdx.x; i < kThreads; i += kBlocks) sum += values[i];
  __syncthreads();
  return sum;
}

__device__ void add_partials(float* y) {
  if (threadIdx.x != 0) return;
  float sum = 0.0f;
  for (const float partial : partials) sum += partial;
  y[0] = sum;
}

__global__ void sum_over_blocks(const float* x, float* y) {
  const float sum = partial_sum(x);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (is_last_block(&counter, kBlocks)) add_partials(y);
}

__global__ void highest_block_is_last(const float* x, float* y) {
  const float sum = partial_sum(x);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (blockIdx.x == kBlocks - 1) add_partials(y);
}

__global__ void counted_before_written(const float* x, float* y) {
  const float sum = partial_sum(x);
  const bool last = is_last_block(&counter, kBlocks);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (last) add_partials(y);
}

__global__ void block_0_is_first(const float* x, float* y) {
  const float sum = partial_sum(x);
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) y[0] = 0.0f;
  y[0] += sum;
}

__global__ void waits_for_another_block(const float* x, float* y) {
  if (threadIdx.x == 0) {
    while (blockIdx.x > 0 && *static_cast<volatile unsigned*>(&counter) == 0) continue;
    atomicInc(&counter, kBlocks - 1);
  }
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void all_blocks_wait(const float* x, float* y) {
  if (threadIdx.x == 0) atomicInc(&counter, kBlocks);
  do __syncthreads();
  while (*static_cast<volatile unsigned*>(&counter) < kBlocks);
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void shared_memory_of_another_block(const float* x, float* y) {
  __shared__ float values[kThreads];
  if (blockIdx.x % 2 == 0) values[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (blockIdx.x % 2 == 1) y[threadIdx.x] = values[threadIdx.x];
}

struct Named {
  const char* name;
  void (*kernel)(const float*, float*);
  unsigned blocks;
};
#define NAMED(kernel) {#kernel, kernel, 1}
#define NAMED_BLOCKS(kernel) {#kernel, kernel, kBlocks}
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
    NAMED_BLOCKS(sum_over_blocks),
    NAMED_BLOCKS(highest_block_is_last),
    NAMED_BLOCKS(counted_before_written),
    NAMED_BLOCKS(block_0_is_first),
    NAMED_BLOCKS(waits_for_another_block),
    NAMED_BLOCKS(all_blocks_wait),
    NAMED_BLOCKS(shared_memory_of_another_block),
};

}  // namespace

extern "C" const char* run(const char* name, const float* x, float* y) {
  for (const Named& entry : kKernels) {
    if (strcmp(entry.name, name) != 0) continue;
    const auto kernel = entry.kernel;
    counter = 0;
    for (float& partial : partials) partial = NAN;
    HAST_LAUNCH(kernel, dim3(entry.blocks), dim3(kThreads), 0, nullptr, x, y);
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
