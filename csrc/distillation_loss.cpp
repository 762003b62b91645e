// CPU kernel of distillation_loss.h. A wanted gradient holds the exponentials of its row between
// the two sweeps.
#include "distillation_loss.h"

#include "common/rows.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// Elements summed in fp before the sum goes to double.
constexpr int64_t kSegment = 1024;

template <typename T, bool kTeacher, bool kStudent>
double distill_row(const DistillationLossArgs& args, int64_t row) {
  using F = Compute<T>;
  const int64_t classes = args.classes, offset = row * classes;
  const T* __restrict teacher = static_cast<const T*>(args.teacher) + offset;
  const T* __restrict student = static_cast<const T*>(args.student) + offset;
  F* __restrict d_teacher = kTeacher ? static_cast<F*>(args.teacher_gradient) + offset : nullptr;
  F* __restrict d_student = kStudent ? static_cast<F*>(args.student_gradient) + offset : nullptr;
  const F inverse = static_cast<F>(1.0 / args.temperature);
  const F top_t = row_maximum(teacher, classes), top_s = row_maximum(student, classes);

  double sum_t = 0.0, sum_s = 0.0, weighted_gap = 0.0;
  for (int64_t begin = 0; begin < classes; begin += kSegment) {
    const int64_t end = smaller(classes, begin + kSegment);
    F part_t = F(0), part_s = F(0), part_gap = F(0);
#pragma omp simd reduction(+ : part_t, part_s, part_gap)
    for (int64_t j = begin; j < end; ++j) {
      const F a = (to_compute(teacher[j]) - top_t) * inverse;
      const F b = (to_compute(student[j]) - top_s) * inverse;
      const F exp_t = exponential(a), exp_s = exponential(b);
      if constexpr (kTeacher) d_teacher[j] = exp_t;
      if constexpr (kStudent) d_student[j] = exp_s;
      part_t += exp_t;
      part_s += exp_s;
      part_gap += exp_t * (a - b);
    }
    sum_t += static_cast<double>(part_t);
    sum_s += static_cast<double>(part_s);
    weighted_gap += static_cast<double>(part_gap);
  }

  const DistilledRow<F> result(args, sum_t, sum_s, weighted_gap);
  if constexpr (kTeacher || kStudent) {
#pragma omp simd
    for (int64_t j = 0; j < classes; ++j) {
      const F a = (to_compute(teacher[j]) - top_t) * inverse;
      F exp_t;
      if constexpr (kTeacher) {
        const F b = (to_compute(student[j]) - top_s) * inverse;
        exp_t = d_teacher[j];
        d_teacher[j] = result.teacher_gradient(exp_t, a - b);
      } else {
        exp_t = exponential(a);
      }
      if constexpr (kStudent) d_student[j] = result.student_gradient(exp_t, d_student[j]);
    }
  }
  return result.loss;
}

template <typename T, bool kTeacher, bool kStudent>
void distill_rows(const DistillationLossArgs& args) {
  for_each_row(args.rows, args.classes, [&](int64_t row) {
    args.scratch[row] = distill_row<T, kTeacher, kStudent>(args, row);
  });
  double sum = 0.0;
  for (int64_t row = 0; row < args.rows; ++row) sum += args.scratch[row];
  *static_cast<Compute<T>*>(args.loss) =
      static_cast<Compute<T>>(sum / static_cast<double>(args.rows));
}

}  // namespace

const char* distillation_loss(const DistillationLossArgs& args) {
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    const bool teacher = args.teacher_gradient, student = args.student_gradient;
    if (teacher && student) distill_rows<T, true, true>(args);
    if (teacher && !student) distill_rows<T, true, false>(args);
    if (!teacher && student) distill_rows<T, false, true>(args);
    if (!teacher && !student) distill_rows<T, false, false>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
