// Minimum and maximum of a run of elements, as SIMD code.
#pragma once

#include "common/dtype.h"
#include "common/extremes.h"

namespace hast {
inline namespace HAST_BACKEND {

template <typename T, typename F>
Extremes<F> find_extremes(const T* __restrict x, int64_t size) {
  F low = static_cast<F>(INFINITY);
  F high = -static_cast<F>(INFINITY);
  // The flag has the width of F: a narrower one would keep the loop from being SIMD code.
  F nan = F(0);
#pragma omp simd reduction(min : low) reduction(max : high) reduction(max : nan)
  for (int64_t i = 0; i < size; ++i) {
    const F value = to_compute(x[i]);
    low = value < low ? value : low;
    high = value > high ? value : high;
    const F flag = value != value ? F(1) : F(0);
    nan = flag > nan ? flag : nan;
  }
  Extremes<F> extremes;
  extremes.low = low;
  extremes.high = high;
  extremes.nan = nan > F(0);
  return extremes;
}

}  // namespace HAST_BACKEND
}  // namespace hast
