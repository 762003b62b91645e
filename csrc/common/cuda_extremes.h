// Minimum and maximum of many elements by a block of threads.
#pragma once

#include "common/cuda_reduce.h"
#include "common/cuda_vector.h"
#include "common/extremes.h"

namespace hast {
inline namespace HAST_BACKEND {

// NaN in both ends or in none.
template <typename F>
__device__ __forceinline__ void merge(Extremes<F>& extremes, F low, F high) {
  extremes.low = low < extremes.low ? low : extremes.low;
  extremes.high = high > extremes.high ? high : extremes.high;
  extremes.nan = extremes.nan || low != low;
}

// In every thread of the block.
template <typename F>
__device__ __forceinline__ Extremes<F> block_extremes(Extremes<F> value) {
  __shared__ F lows[kWarp], highs[kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const F low = __shfl_xor_sync(kFullMask, value.low, offset);
    const F high = __shfl_xor_sync(kFullMask, value.high, offset);
    merge(value, low, high);
  }
  value.nan = __ballot_sync(kFullMask, value.nan) != 0;
  __syncthreads();  // the previous call's values have been read
  if (threadIdx.x % kWarp == 0) {
    lows[threadIdx.x / kWarp] = value.minimum();
    highs[threadIdx.x / kWarp] = value.maximum();
  }
  __syncthreads();
  Extremes<F> all;
  for (unsigned i = 0; i < blockDim.x / kWarp; ++i) merge(all, lows[i], highs[i]);
  return all;
}

// Elements [start, start + step, ...) of x, whole vectors first.
template <int kSize, typename T, typename F>
__device__ __forceinline__ Extremes<F> find_extremes(const T* __restrict__ x, int64_t size,
                                                     int64_t start, int64_t step) {
  Extremes<F> extremes;
  const int64_t vectors = size / kSize;
#pragma unroll 4
  for (int64_t i = start; i < vectors; i += step) {
    F values[kSize];
    load_vector<kSize>(x + i * kSize, values);
#pragma unroll
    for (int k = 0; k < kSize; ++k) extremes.add(values[k]);
  }
  for (int64_t i = vectors * kSize + start; i < size; i += step) extremes.add(to_compute(x[i]));
  return extremes;
}

}  // namespace HAST_BACKEND
}  // namespace hast
