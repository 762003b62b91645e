// The hard-sample loss (Eq. 8) with its gradient. x: logits [rows, classes], y: labels,
// p = softmax(x), CE = -log p_y, d = 1 - min(p_y, 1 - 1e-6), g: the exponent:
//
//   loss = 1/rows * sum_n d^g * CE
//   d/dx_j = w * (p_j - [j = y]) / rows,  w = d^g + g*d^(g-1) * p_y * CE
//
// The second term of w is absent where d is treated as a constant (`detach`) and where p_y is
// clamped: for g < 1 it would grow without bound as p_y reaches 1. A label outside [0, classes)
// makes its row NaN.
#pragma once

#include "common/dtype.h"
#include "common/transcendental.h"

namespace hast {

struct HardSampleLossArgs {
  const void* logits;
  const int64_t* labels;  // [rows]
  void* gradient;         // fp[rows, classes] or null
  void* loss;             // fp[1]
  void* difficulty;       // fp[1], the mean of d
  double* scratch;        // [rows, 2]
  uint32_t* counters;     // one, zero on entry and on exit; CUDA only
  double exponent;
  bool detach;
  DType dtype;
  int64_t rows, classes;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* hard_sample_loss(const HardSampleLossArgs& args);

// Never read outside of the row.
template <typename T>
HAST_HOST_DEVICE Compute<T> logit_at(const T* logits, int64_t label, int64_t classes) {
  return label >= 0 && label < classes ? to_compute(logits[label]) : static_cast<Compute<T>>(NAN);
}

// What one row needs; `shifted` is x_y - max x, `sum` that of e^(x_j - max x).
template <typename F>
struct HardRow {
  double loss, difficulty;
  F scale;     // d/dx_j = scale * e^(x_j - max x), j != y
  F at_label;  // d/dx_y

  // The sum, 1 - p_y and sum - 1 in double: all lose their digits in fp where p_y is near 1.
  HAST_HOST_DEVICE HardRow(const HardSampleLossArgs& args, F shifted, double sum) {
    const double largest = 1.0 - 1e-6;
    const double p = static_cast<double>(exponential(shifted)) / sum;
    const bool clamped = p > largest;
    difficulty = 1.0 - (clamped ? largest : p);
    const F cross_entropy = log_one_plus(static_cast<F>(sum - 1.0)) - shifted;
    const F exponent = static_cast<F>(args.exponent);
    const F weight = power(static_cast<F>(difficulty), exponent);
    loss = static_cast<double>(weight * cross_entropy);
    F slope = weight;
    if (!args.detach && !clamped && exponent > F(0)) {
      slope += exponent * (weight / static_cast<F>(difficulty)) * static_cast<F>(p) * cross_entropy;
    }
    const double factor = static_cast<double>(slope) / static_cast<double>(args.rows);
    scale = static_cast<F>(factor / sum);
    at_label = static_cast<F>(factor * (p - 1.0));
  }
};

}  // namespace HAST_BACKEND
}  // namespace hast
