// Rows of logits on the GPU: a warp each, or a block each where they are long. Reductions give
// their result to every thread of the row, in an order fixed by the number of threads.
#pragma once

#include "common/cuda_reduce.h"

namespace hast {
inline namespace HAST_BACKEND {

// Up to here a row is a warp's: at most eight elements per lane, and no barriers.
constexpr int64_t kWarpRow = 256;

struct Largest {
  template <typename F>
  __device__ F operator()(F a, F b) const {
    return b > a ? b : a;  // passes over NaN: what is computed from its element is NaN anyway
  }
};

struct Total {
  template <typename F>
  __device__ F operator()(F a, F b) const {
    return a + b;
  }
};

// The threads of one row: kThreads is kWarp or kBlock.
template <int kThreads>
struct RowThreads {
  static_assert(kThreads == kWarp || kThreads == kBlock, "a row is a warp's or a block's");
  static constexpr int kSize = kThreads;
  static constexpr int kRowsPerBlock = kBlock / kThreads;

  __device__ int64_t rank() const { return threadIdx.x % kThreads; }
  __device__ int64_t first_row() const {
    return static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kThreads;
  }
  __device__ int64_t row_step() const { return static_cast<int64_t>(gridDim.x) * kRowsPerBlock; }

  template <int kCount, typename F, typename Operation>
  __device__ void reduce(F (&values)[kCount], const Operation& combine) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        values[i] = combine(values[i], __shfl_xor_sync(kFullMask, values[i], offset));
      }
    }
    if constexpr (kThreads > kWarp) {
      constexpr int kWarps = kThreads / kWarp;
      __shared__ F warps[kWarps][kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp][i] = values[i];
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i] = warps[0][i];
        for (int warp = 1; warp < kWarps; ++warp) values[i] = combine(values[i], warps[warp][i]);
      }
      __syncthreads();  // the next call writes here
    }
  }
};

// launch(threads, blocks) with the threads per row that suit rows of `size` elements.
template <typename Launch>
const char* launch_rows(int64_t rows, int64_t size, const Launch& launch) {
  constexpr int64_t kMaxBlocks = 65535;
  if (size <= kWarpRow) {
    using Threads = RowThreads<kWarp>;
    return launch(Threads{}, dim3(clamped(ceil_div(rows, Threads::kRowsPerBlock), kMaxBlocks)));
  }
  return launch(RowThreads<kBlock>{}, dim3(clamped(rows, kMaxBlocks)));
}

}  // namespace HAST_BACKEND
}  // namespace hast
