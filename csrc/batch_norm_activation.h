// Eval-mode BatchNorm, residual sum, activation, quantization on a frozen range and, of the
// normalised map, the channel attention (Eq. 14) or the distance from another map, in one pass.
// K, a: batch_norm.h; Q: fake_quantize.h.
//
//   u = a*(x - K) + bias
//   y = Q(act(u + residual))
//   map = u
//   energy[n, c] = sum over space of (u - target)^2
//
// The gradient is in batch_norm_backward.h.
#pragma once

#include "batch_norm.h"
#include "common/activation.h"
#include "common/dtype.h"
#include "fake_quantize.h"

namespace hast {

struct BatchNormActivationArgs {
  const void* x;         // [images, channels, spatial], or [images, spatial, channels]
  const void* residual;  // like x, or null
  const void* target;    // like x, or null: 0
  void* y;               // like x
  void* energy;          // fp[images, channels], or null
  void* map;             // like x, or null
  const void* running_mean;
  const void* running_var;
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  double eps;
  const void* range;   // fp[2], lower and upper end; null: not quantized
  int bits;            // of the quantizer
  double* scratch;     // [batch_norm_activation_scratch(...)]; with energy, CUDA only
  uint32_t* counters;  // one per image and channel at most, zero on entry and on exit; likewise
  DType dtype;
  int64_t images, channels, spatial;
  bool channels_last;
  Activation activation;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

int64_t batch_norm_activation_scratch(int64_t images, int64_t channels, int64_t spatial,
                                      bool channels_last);
const char* batch_norm_activation(const BatchNormActivationArgs& args);

}  // namespace HAST_BACKEND
}  // namespace hast
