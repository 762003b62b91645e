// CUDA kernel of update_range.h: one read of x; every block leaves its minimum and maximum in
// scratch, the last one to finish takes the step.
#include "update_range.h"

#include "common/cuda_extremes.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T, int kSize>
__global__ void __launch_bounds__(kBlock) track_range(UpdateRangeArgs args) {
  using F = Compute<T>;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  Extremes<F> extremes = block_extremes(
      find_extremes<kSize, T, F>(static_cast<const T*>(args.x), args.size, start, step));
  volatile F* partial = static_cast<F*>(args.scratch);
  if (threadIdx.x == 0) {
    volatile F* own = partial + 2 * static_cast<int64_t>(blockIdx.x);
    own[0] = extremes.minimum();
    own[1] = extremes.maximum();
  }
  if (!is_last_block(args.counters, gridDim.x)) return;
  Extremes<F> all;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    merge<F>(all, partial[2 * i], partial[2 * i + 1]);
  }
  all = block_extremes(all);
  if (threadIdx.x == 0) {
    const ActivationRange<F> act = activation_range<F>(args.activation);
    step_range(static_cast<F*>(args.state), act(all.minimum()), act(all.maximum()),
               static_cast<F>(args.beta), static_cast<F>(1.0 - args.beta), args.released);
  }
}

template <typename T, int kSize>
const char* launch_track(const UpdateRangeArgs& args) {
  const auto kernel = track_range<T, kSize>;
  const auto blocks = static_cast<unsigned>(update_range_scratch(args.size) / 2);
  HAST_LAUNCH(kernel, dim3(blocks), dim3(kBlock), 0, args.stream, args);
  return launch_error();
}

}  // namespace

// A minimum and a maximum per block; a block for every 4096 elements, but no more than fill a GPU.
int64_t update_range_scratch(int64_t size) { return 2 * smaller(1024, ceil_div(size, 4096)); }

const char* update_range(const UpdateRangeArgs& args) {
  if (args.size == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return aligned(args.x, 16) ? launch_track<T, kVector<T>>(args) : launch_track<T, 1>(args);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
