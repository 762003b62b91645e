// Threads for the CPU kernels. Work is split by size alone wherever results are summed, so no
// result depends on the number of threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

// Elements below which another thread costs more than it brings.
constexpr int64_t kGrain = 16384;

inline int thread_count(int64_t items, int64_t elements) {
#ifdef _OPENMP
  const int64_t wanted = smaller(items, elements / kGrain);
  return static_cast<int>(larger(1, smaller(omp_get_max_threads(), wanted)));
#else
  (void)items, (void)elements;
  return 1;
#endif
}

// body(begin, end) over contiguous shares of [0, items); `elements` is the work of all of them.
template <typename Body>
void parallel_for(int64_t items, int64_t elements, const Body& body) {
#ifdef _OPENMP
  const int threads = thread_count(items, elements);
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t count = omp_get_num_threads();
      const int64_t rank = omp_get_thread_num();
      const int64_t share = items / count;
      const int64_t extra = items % count;
      const int64_t begin = rank * share + smaller(rank, extra);
      body(begin, begin + share + (rank < extra ? 1 : 0));
    }
    return;
  }
#else
  (void)elements;
#endif
  body(int64_t{0}, items);
}

// body(row, begin, end) over pieces of [rows, length]: short rows whole, long rows cut.
template <typename Body>
void parallel_segments(int64_t rows, int64_t length, const Body& body) {
  const int64_t per_row = ceil_div(length, kGrain);
  parallel_for(rows * per_row, rows * length, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t row = item / per_row;
      const int64_t begin = (item - row * per_row) * kGrain;
      body(row, begin, smaller(length, begin + kGrain));
    }
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
