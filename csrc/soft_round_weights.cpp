// CPU kernel of soft_round_weights.h.
#include "soft_round_weights.h"

#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// Elements summed in fp before the sum goes to double. Of each, h comes first for all and what
// depends on it second: a loop with both would wait for one result after the other.
constexpr int64_t kSegment = 256;

template <typename F>
F value_at(const void* scalar) {
  return scalar ? *static_cast<const F*>(scalar) : F(0);
}

// Writes the row's weights; its part of the regulariser.
template <typename F, bool kRegularised>
double soften_row(const SoftRoundedWeight& own, int64_t row, F beta) {
  const F* __restrict base = static_cast<const F*>(own.base) + row * own.columns;
  const F* __restrict rounding = static_cast<const F*>(own.rounding) + row * own.columns;
  F* __restrict weight = static_cast<F*>(own.weight) + row * own.columns;
  const Levels<F> levels(own, row);
  double sum = 0.0;
  for (int64_t begin = 0; begin < own.columns; begin += kSegment) {
    const int64_t end = smaller(own.columns, begin + kSegment);
    F ups[kSegment];
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const F up = RectifiedSigmoid<F>(rounding[i]).value();
      weight[i] = levels.nearest(base[i] + up) * levels.step;
      if constexpr (kRegularised) ups[i - begin] = up;
    }
    if constexpr (!kRegularised) continue;
    F part = F(0);
#pragma omp simd reduction(+ : part)
    for (int64_t i = 0; i < end - begin; ++i) part += undecided(ups[i], beta);
    sum += static_cast<double>(part);
  }
  return sum;
}

// Writes the gradients of the row; `factor` is the regulariser's.
template <typename F, bool kReached, bool kRegularised>
void soften_row_backward(const SoftRoundedWeight& own, int64_t row, F factor, F beta) {
  const int64_t offset = row * own.columns;
  const F* __restrict base = static_cast<const F*>(own.base) + offset;
  const F* __restrict rounding = static_cast<const F*>(own.rounding) + offset;
  const F* __restrict gradient = kReached ? static_cast<const F*>(own.gradient) + offset : nullptr;
  F* __restrict result = static_cast<F*>(own.rounding_gradient) + offset;
  const Levels<F> levels(own, row);
  double sum = 0.0;
  for (int64_t begin = 0; begin < own.columns; begin += kSegment) {
    const int64_t end = smaller(own.columns, begin + kSegment);
    F ups[kSegment], part = F(0);
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const RectifiedSigmoid<F> h(rounding[i]);
      ups[i - begin] = h.value();
      result[i] = h.slope();
    }
#pragma omp simd reduction(+ : part)
    for (int64_t i = begin; i < end; ++i) {
      const F up = ups[i - begin], level = base[i] + up;
      F change = F(0);
      if constexpr (kReached) {
        change = levels.holds(level) ? gradient[i] * levels.step : F(0);
        part += gradient[i] * levels.nearest(level);
      }
      if constexpr (kRegularised) change += factor * undecided_slope(up, beta);
      result[i] = carried(change, result[i]);
    }
    sum += static_cast<double>(part);
  }
  static_cast<F*>(own.step_gradient)[row] = static_cast<F>(sum);
}

// body(weight, row, index of the row among all) for every row. A thread's share is a run of
// elements over all weights, however small each of them is; a row belongs to the share its first
// element is in.
template <typename Body>
void for_each_row(const SoftRoundWeightsArgs& args, const Body& body) {
  int64_t elements = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    elements += args.weights[i].rows * args.weights[i].columns;
  }
  parallel_for(elements, elements, [&](int64_t begin, int64_t end) {
    int64_t first = 0, rows = 0;  // elements and rows before this weight
    for (int64_t i = 0; i < args.count; ++i) {
      const SoftRoundedWeight& own = args.weights[i];
      const int64_t from = ceil_div(larger(begin - first, 0), own.columns);
      const int64_t to = smaller(own.rows, ceil_div(larger(end - first, 0), own.columns));
      for (int64_t row = from; row < to; ++row) body(own, row, rows + row);
      first += own.rows * own.columns;
      rows += own.rows;
    }
  });
}

template <typename F>
void soften(const SoftRoundWeightsArgs& args) {
  if (!args.beta) {
    for_each_row(args, [](const SoftRoundedWeight& own, int64_t row, int64_t) {
      soften_row<F, false>(own, row, F(0));
    });
    return;
  }
  const F beta = value_at<F>(args.beta);
  for_each_row(args, [&](const SoftRoundedWeight& own, int64_t row, int64_t index) {
    args.scratch[index] = soften_row<F, true>(own, row, beta);
  });
  int64_t rows = 0;
  for (int64_t i = 0; i < args.count; ++i) rows += args.weights[i].rows;
  double sum = 0.0;
  for (int64_t i = 0; i < rows; ++i) sum += args.scratch[i];
  *static_cast<F*>(args.regulariser) = static_cast<F>(sum);
}

template <typename F, bool kRegularised>
void soften_backward(const SoftRoundWeightsArgs& args) {
  const F factor = value_at<F>(args.regulariser_gradient), beta = value_at<F>(args.beta);
  for_each_row(args, [&](const SoftRoundedWeight& own, int64_t row, int64_t) {
    if (own.gradient) {
      soften_row_backward<F, true, kRegularised>(own, row, factor, beta);
    } else {
      soften_row_backward<F, false, kRegularised>(own, row, factor, beta);
    }
  });
}

}  // namespace

const char* soft_round_weights(const SoftRoundWeightsArgs& args) {
  return visit_compute_type(args.dtype, [&](auto element) -> const char* {
    soften<decltype(element)>(args);
    return nullptr;
  });
}

const char* soft_round_weights_backward(const SoftRoundWeightsArgs& args) {
  return visit_compute_type(args.dtype, [&](auto element) -> const char* {
    using F = decltype(element);
    if (args.regulariser_gradient) {
      soften_backward<F, true>(args);
    } else {
      soften_backward<F, false>(args);
    }
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
