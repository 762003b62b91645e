// Rows of logits on the CPU: one thread per row, whose elements stay in its cache.
#pragma once

#include "common/dtype.h"
#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {

// A NaN is passed over: what is computed from its element is NaN anyway.
template <typename T>
Compute<T> row_maximum(const T* __restrict row, int64_t size) {
  using F = Compute<T>;
  F top = -static_cast<F>(INFINITY);
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < size; ++i) {
    const F value = to_compute(row[i]);
    top = value > top ? value : top;
  }
  return top;
}

template <typename Body>
void for_each_row(int64_t rows, int64_t size, const Body& body) {
  parallel_for(rows, rows * size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
