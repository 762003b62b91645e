// CPU kernel of update_range.h.
#include "update_range.h"

#include "common/cpu_extremes.h"
#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T>
void track_range(const UpdateRangeArgs& args) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(args.x);
  F* partial = static_cast<F*>(args.scratch);
  parallel_segments(1, args.size, [&](int64_t, int64_t begin, int64_t end) {
    const Extremes<F> extremes = find_extremes<T, F>(x + begin, end - begin);
    partial[2 * (begin / kGrain)] = extremes.minimum();
    partial[2 * (begin / kGrain) + 1] = extremes.maximum();
  });
  Extremes<F> all;
  const int64_t count = update_range_scratch(args.size);
  for (int64_t i = 0; i < count; ++i) all.add(partial[i]);
  const ActivationRange<F> act = activation_range<F>(args.activation);
  step_range(static_cast<F*>(args.state), act(all.minimum()), act(all.maximum()),
             static_cast<F>(args.beta), static_cast<F>(1.0 - args.beta), args.released);
}

}  // namespace

int64_t update_range_scratch(int64_t size) { return 2 * ceil_div(size, kGrain); }

const char* update_range(const UpdateRangeArgs& args) {
  if (args.size == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    track_range<decltype(element)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
