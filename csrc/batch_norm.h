// Eval-mode BatchNorm of one channel: a*(x - K) + bias, K = running_mean[c],
// a = weight[c] / sqrt(running_var[c] + eps).
#pragma once

#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

template <typename F>
struct AffineChannel {
  F shift, scale, bias;

  HAST_HOST_DEVICE F operator()(F x) const { return scale * (x - shift) + bias; }
};

template <typename F, typename Args>
HAST_HOST_DEVICE AffineChannel<F> affine_channel(const Args& args, int64_t channel) {
  const F* weight = static_cast<const F*>(args.weight);
  const F* bias = static_cast<const F*>(args.bias);
  const F deviation =
      square_root(static_cast<const F*>(args.running_var)[channel] + static_cast<F>(args.eps));
  return {static_cast<const F*>(args.running_mean)[channel],
          (weight ? weight[channel] : F(1)) / deviation, bias ? bias[channel] : F(0)};
}

}  // namespace HAST_BACKEND
}  // namespace hast
