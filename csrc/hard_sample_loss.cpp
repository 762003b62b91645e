// CPU kernel of hard_sample_loss.h. The gradient, if wanted, holds the exponentials of its row
// between the two sweeps.
#include "hard_sample_loss.h"

#include "common/rows.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T, bool kGradient>
HardRow<Compute<T>> hard_row(const HardSampleLossArgs& args, int64_t row) {
  using F = Compute<T>;
  const int64_t classes = args.classes, offset = row * classes, label = args.labels[row];
  const T* __restrict logits = static_cast<const T*>(args.logits) + offset;
  F* __restrict gradient = kGradient ? static_cast<F*>(args.gradient) + offset : nullptr;
  const F top = row_maximum(logits, classes);

  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < classes; ++j) {
    const F value = exponential(to_compute(logits[j]) - top);
    if constexpr (kGradient) gradient[j] = value;
    sum += static_cast<double>(value);
  }

  const HardRow<F> result(args, logit_at(logits, label, classes) - top, sum);
  if constexpr (kGradient) {
#pragma omp simd
    for (int64_t j = 0; j < classes; ++j) gradient[j] *= result.scale;
    if (label >= 0 && label < classes) gradient[label] = result.at_label;
  }
  return result;
}

template <typename T, bool kGradient>
void hard_rows(const HardSampleLossArgs& args) {
  using F = Compute<T>;
  for_each_row(args.rows, args.classes, [&](int64_t row) {
    const HardRow<F> result = hard_row<T, kGradient>(args, row);
    args.scratch[2 * row] = result.loss;
    args.scratch[2 * row + 1] = result.difficulty;
  });
  double loss = 0.0, difficulty = 0.0;
  for (int64_t row = 0; row < args.rows; ++row) {
    loss += args.scratch[2 * row];
    difficulty += args.scratch[2 * row + 1];
  }
  *static_cast<F*>(args.loss) = static_cast<F>(loss / static_cast<double>(args.rows));
  *static_cast<F*>(args.difficulty) = static_cast<F>(difficulty / static_cast<double>(args.rows));
}

}  // namespace

const char* hard_sample_loss(const HardSampleLossArgs& args) {
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    args.gradient ? hard_rows<T, true>(args) : hard_rows<T, false>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
