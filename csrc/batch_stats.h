// Eval-mode BatchNorm that also returns the statistics of its input, from one read of it; and the
// gradient of both. K = running_mean[c], n = outer * inner, a = weight / sqrt(running_var + eps).
//
//   forward    y = act(a*(x - K) + bias + residual)
//              mean = K + sum(x - K)/n,  var = sum((x - K)^2)/n - (sum(x - K)/n)^2
//   backward   g = dy where act passes, dresidual = g
//              dx = a*g + dmean/n + 2*dvar*(x - mean)/n
//              dbias = sum(g),  dweight = sum(g*(x - K)) / sqrt(running_var + eps)
//
// Shifting by K keeps the sum of squares well conditioned: statistics are compared with the running
// ones, so x - K is small where precision matters. Sums are finished in double.
#pragma once

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
  double* scratch;     // [batch_stats_scratch(outer, channels, inner)]
  uint32_t* counters;  // [channels], zero on entry and on exit; CUDA only
  DType dtype;
  int64_t outer, channels, inner;
  Activation activation;
  int device;
  void* stream;
};

struct BatchNormMatchBackwardArgs {
  const void* x;
  const void* y;      // the saved output; read only if there are an activation and dy
  const void* dy;     // null: 0
  const void* dmean;  // null: 0
  const void* dvar;   // null: 0
  const void* mean;
  const void* running_mean;
  const void* running_var;
  const void* weight;  // null: 1
  double eps;
  void* dx;         // or null
  void* dresidual;  // or null
  void* dweight;    // dweight and dbias: both or neither
  void* dbias;
  double* scratch;
  uint32_t* counters;
  DType dtype;
  int64_t outer, channels, inner;
  Activation activation;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

int64_t batch_stats_scratch(int64_t outer, int64_t channels, int64_t inner);
const char* batch_norm_match(const BatchNormMatchArgs& args);
const char* batch_norm_match_backward(const BatchNormMatchBackwardArgs& args);

template <typename F>
struct AffineChannel {
  F shift, scale, bias;
};

template <typename F>
HAST_HOST_DEVICE AffineChannel<F> affine_channel(const BatchNormMatchArgs& args, int64_t channel) {
  const F* weight = static_cast<const F*>(args.weight);
  const F* bias = static_cast<const F*>(args.bias);
  const F deviation =
      square_root(static_cast<const F*>(args.running_var)[channel] + static_cast<F>(args.eps));
  return {static_cast<const F*>(args.running_mean)[channel],
          (weight ? weight[channel] : F(1)) / deviation, bias ? bias[channel] : F(0)};
}

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

// dx = scale*g + constant + slope*(x - center)
template <typename F>
struct GradientChannel {
  F shift, scale, constant, slope, center;
};

template <typename F>
HAST_HOST_DEVICE GradientChannel<F> gradient_channel(const BatchNormMatchBackwardArgs& args,
                                                     int64_t channel) {
  const F* weight = static_cast<const F*>(args.weight);
  const F* dmean = static_cast<const F*>(args.dmean);
  const F* dvar = static_cast<const F*>(args.dvar);
  const F count = static_cast<F>(args.outer) * static_cast<F>(args.inner);
  const F deviation =
      square_root(static_cast<const F*>(args.running_var)[channel] + static_cast<F>(args.eps));
  return {static_cast<const F*>(args.running_mean)[channel],
          (weight ? weight[channel] : F(1)) / deviation, dmean ? dmean[channel] / count : F(0),
          dvar ? F(2) * dvar[channel] / count : F(0),
          dvar ? static_cast<const F*>(args.mean)[channel] : F(0)};
}

template <typename F>
HAST_HOST_DEVICE void finish_affine_gradient(const BatchNormMatchBackwardArgs& args,
                                             int64_t channel, double sum, double product) {
  const double variance = static_cast<double>(static_cast<const F*>(args.running_var)[channel]);
  static_cast<F*>(args.dbias)[channel] = static_cast<F>(sum);
  static_cast<F*>(args.dweight)[channel] =
      static_cast<F>(product / square_root(variance + args.eps));
}

}  // namespace HAST_BACKEND
}  // namespace hast
