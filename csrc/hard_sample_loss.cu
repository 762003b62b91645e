// CUDA kernel of hard_sample_loss.h, one launch: a warp or a block per row, whose elements stay in
// the cache; the gradient, if wanted, holds the exponentials of its row between the two sweeps
// (each thread reads back only what it wrote). The last block sums the rows.
#include "hard_sample_loss.h"

#include "common/cuda_rows.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// The threads of one row; the result is in all of them.
template <typename T, typename Threads>
__device__ HardRow<Compute<T>> hard_row(const HardSampleLossArgs& args, const Threads& threads,
                                        int64_t row) {
  using F = Compute<T>;
  const int64_t classes = args.classes, offset = row * classes, label = args.labels[row];
  const int64_t first = threads.rank(), step = Threads::kSize;
  const T* logits = static_cast<const T*>(args.logits) + offset;
  F* gradient = args.gradient ? static_cast<F*>(args.gradient) + offset : nullptr;

  F top[1] = {-static_cast<F>(INFINITY)};
  for (int64_t j = first; j < classes; j += step) {
    top[0] = Largest()(top[0], to_compute(logits[j]));
  }
  threads.reduce(top, Largest());

  double sum[1] = {0.0};
  for (int64_t j = first; j < classes; j += step) {
    const F value = exponential(to_compute(logits[j]) - top[0]);
    if (gradient) gradient[j] = value;
    sum[0] += static_cast<double>(value);
  }
  threads.reduce(sum, Total());

  const HardRow<F> result(args, logit_at(logits, label, classes) - top[0], sum[0]);
  for (int64_t j = first; gradient && j < classes; j += step) {
    gradient[j] = j == label ? result.at_label : gradient[j] * result.scale;
  }
  return result;
}

// Grid: x the rows.
template <typename T, typename Threads>
__global__ void __launch_bounds__(kBlock, 1) hard_rows(const HardSampleLossArgs args) {
  using F = Compute<T>;
  const Threads threads;
  volatile double* partial = args.scratch;
  for (int64_t row = threads.first_row(); row < args.rows; row += threads.row_step()) {
    const HardRow<F> result = hard_row<T>(args, threads, row);
    if (threads.rank() != 0) continue;
    partial[2 * row] = result.loss;
    partial[2 * row + 1] = result.difficulty;
  }
  if (!is_last_block(args.counters, gridDim.x)) return;
  DoublePair sum = {0.0, 0.0};
  for (int64_t row = threadIdx.x; row < args.rows; row += kBlock) {
    sum.first += partial[2 * row];
    sum.second += partial[2 * row + 1];
  }
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  const double rows = static_cast<double>(args.rows);
  *static_cast<F*>(args.loss) = static_cast<F>(sum.first / rows);
  *static_cast<F*>(args.difficulty) = static_cast<F>(sum.second / rows);
}

}  // namespace

const char* hard_sample_loss(const HardSampleLossArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      return launch_rows(args.rows, args.classes, [&](auto threads, dim3 blocks) {
        const auto kernel = hard_rows<decltype(element), decltype(threads)>;
        HAST_LAUNCH(kernel, blocks, dim3(kBlock), 0, args.stream, args);
        return launch_error();
      });
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
