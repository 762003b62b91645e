// Sums over a warp, a block and a grid, always in the same order.
#pragma once

#include "common/cuda_launch.h"

namespace hast {
inline namespace HAST_BACKEND {

constexpr unsigned kFullMask = 0xFFFFFFFFu;

__device__ __forceinline__ unsigned thread_rank() { return threadIdx.y * blockDim.x + threadIdx.x; }

// In every lane. Lanes whose index differs in the bits below `stride` stay apart.
template <typename F>
__device__ __forceinline__ F warp_sum(F value, unsigned stride = 1) {
  for (unsigned offset = kWarp / 2; offset >= stride; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, static_cast<int>(offset));
  }
  return value;
}

struct DoublePair {
  double first, second;
};

// In thread 0, for blocks of whole warps. Ends without a barrier: a second call needs one before.
__device__ __forceinline__ DoublePair block_sum(DoublePair value) {
  __shared__ DoublePair warps[kWarp];
  value.first = warp_sum(value.first);
  value.second = warp_sum(value.second);
  const unsigned rank = thread_rank();
  if (rank % kWarp == 0) warps[rank / kWarp] = value;
  __syncthreads();
  if (rank == 0) {
    const unsigned count = blockDim.x * blockDim.y / kWarp;
    for (unsigned i = 1; i < count; ++i) {
      value.first += warps[i].first;
      value.second += warps[i].second;
    }
  }
  return value;
}

// True in all threads of the block that is the last of `blocks` to come here; it sees what the
// others wrote before (read it through volatile pointers, past the L1 cache). The counter is zero
// again afterwards.
__device__ __forceinline__ bool is_last_block(uint32_t* counter, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  // Fences are cumulative: the first covers what the barrier brought here, and the barrier after
  // the second takes along what it let in. One thread waits for memory, not all.
  if (thread_rank() == 0) {
    __threadfence();
    last = atomicInc(counter, blocks - 1) == blocks - 1;
    if (last) __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace HAST_BACKEND
}  // namespace hast
