// Eval-mode BatchNorm that also returns the statistics of its input, from one read of it. K, a:
// batch_norm.h; n = outer * inner elements per channel.
//
//   y = act(a*(x - K) + bias + residual)
//   mean = K + sum(x - K)/n,  var = sum((x - K)^2)/n - (sum(x - K)/n)^2
//
// Shifting by K keeps the sum of squares well conditioned: statistics are compared with the running
// ones, so x - K is small where precision matters. Sums are finished in double.
#pragma once

#include "batch_norm.h"
#include "common/activation.h"
#include "common/dtype.h"

namespace hast {

struct BatchNormMatchArgs {
  const void* x;
  const void* residual;  // or null
  void* y;               // null: statistics only
  void* mean;
  void* var;
  const void* running_mean;
  const void* running_var;
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  double eps;
  double* scratch;     // [batch_norm_match_scratch(outer, channels, inner)]
  uint32_t* counters;  // [channels], zero on entry and on exit; CUDA only
  DType dtype;
  int64_t outer, channels, inner;
  Activation activation;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

int64_t batch_norm_match_scratch(int64_t outer, int64_t channels, int64_t inner);
const char* batch_norm_match(const BatchNormMatchArgs& args);

template <typename F>
HAST_HOST_DEVICE void finish_statistics(const BatchNormMatchArgs& args, int64_t channel, double sum,
                                        double sum_of_squares) {
  const double count = static_cast<double>(args.outer) * static_cast<double>(args.inner);
  const double shift = static_cast<double>(static_cast<const F*>(args.running_mean)[channel]);
  const double offset = sum / count;
  const double variance = sum_of_squares / count - offset * offset;
  static_cast<F*>(args.mean)[channel] = static_cast<F>(shift + offset);
  static_cast<F*>(args.var)[channel] = static_cast<F>(variance < 0.0 ? 0.0 : variance);
}

}  // namespace HAST_BACKEND
}  // namespace hast
