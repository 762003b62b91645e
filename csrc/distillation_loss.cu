// CUDA kernel of distillation_loss.h, one launch: a warp or a block per row, whose elements stay in
// the cache; a wanted gradient holds the exponentials of its row between the two sweeps (each
// thread reads back only what it wrote). The last block sums the rows' losses.
#include "distillation_loss.h"

#include "common/cuda_rows.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// The threads of one row; its loss, in all of them.
template <typename T, typename Threads>
__device__ double distill_row(const DistillationLossArgs& args, const Threads& threads,
                              int64_t row) {
  using F = Compute<T>;
  const int64_t classes = args.classes, offset = row * classes;
  const int64_t first = threads.rank(), step = Threads::kSize;
  const T* teacher = static_cast<const T*>(args.teacher) + offset;
  const T* student = static_cast<const T*>(args.student) + offset;
  F* d_teacher = args.teacher_gradient ? static_cast<F*>(args.teacher_gradient) + offset : nullptr;
  F* d_student = args.student_gradient ? static_cast<F*>(args.student_gradient) + offset : nullptr;
  const F inverse = static_cast<F>(1.0 / args.temperature);

  F top[2] = {-static_cast<F>(INFINITY), -static_cast<F>(INFINITY)};
  for (int64_t j = first; j < classes; j += step) {
    top[0] = Largest()(top[0], to_compute(teacher[j]));
    top[1] = Largest()(top[1], to_compute(student[j]));
  }
  threads.reduce(top, Largest());

  F part_t = F(0), part_s = F(0), part_gap = F(0);
  for (int64_t j = first; j < classes; j += step) {
    const F a = (to_compute(teacher[j]) - top[0]) * inverse;
    const F b = (to_compute(student[j]) - top[1]) * inverse;
    const F exp_t = exponential(a), exp_s = exponential(b);
    if (d_teacher) d_teacher[j] = exp_t;
    if (d_student) d_student[j] = exp_s;
    part_t += exp_t;
    part_s += exp_s;
    part_gap += exp_t * (a - b);
  }
  double sums[3] = {static_cast<double>(part_t), static_cast<double>(part_s),
                    static_cast<double>(part_gap)};
  threads.reduce(sums, Total());

  const DistilledRow<F> result(args, sums[0], sums[1], sums[2]);
  if (!d_teacher && !d_student) return result.loss;
  for (int64_t j = first; j < classes; j += step) {
    const F a = (to_compute(teacher[j]) - top[0]) * inverse;
    const F exp_t = d_teacher ? d_teacher[j] : exponential(a);
    if (d_student) d_student[j] = result.student_gradient(exp_t, d_student[j]);
    if (d_teacher) {
      const F b = (to_compute(student[j]) - top[1]) * inverse;
      d_teacher[j] = result.teacher_gradient(exp_t, a - b);
    }
  }
  return result.loss;
}

// Grid: x the rows.
template <typename T, typename Threads>
__global__ void __launch_bounds__(kBlock, 1) distill_rows(const DistillationLossArgs args) {
  const Threads threads;
  volatile double* partial = args.scratch;
  for (int64_t row = threads.first_row(); row < args.rows; row += threads.row_step()) {
    const double loss = distill_row<T>(args, threads, row);
    if (threads.rank() == 0) partial[row] = loss;
  }
  if (!is_last_block(args.counters, gridDim.x)) return;
  double sum = 0.0;
  for (int64_t row = threadIdx.x; row < args.rows; row += kBlock) sum += partial[row];
  sum = block_sum({sum, 0.0}).first;
  if (threadIdx.x != 0) return;
  *static_cast<Compute<T>*>(args.loss) =
      static_cast<Compute<T>>(sum / static_cast<double>(args.rows));
}

}  // namespace

const char* distillation_loss(const DistillationLossArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      return launch_rows(args.rows, args.classes, [&](auto threads, dim3 blocks) {
        const auto kernel = distill_rows<decltype(element), decltype(threads)>;
        HAST_LAUNCH(kernel, blocks, dim3(kBlock), 0, args.stream, args);
        return launch_error();
      });
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
