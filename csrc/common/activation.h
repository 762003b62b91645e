// The activation in front of a quantizer or behind a BatchNorm.
#pragma once

#include "common/portability.h"

namespace hast {

enum class Activation : int { kNone = 0, kRelu = 1, kRelu6 = 2 };

inline namespace HAST_BACKEND {

// All three are a clamp, so that kernels need no branch on which one it is.
template <typename F>
struct ActivationRange {
  F low;
  F high;

  HAST_HOST_DEVICE F operator()(F value) const { return clamp_keep_nan(value, low, high); }
};

template <typename F>
HAST_HOST_DEVICE ActivationRange<F> activation_range(Activation activation) {
  const F infinity = static_cast<F>(INFINITY);
  return {activation == Activation::kNone ? -infinity : F(0),
          activation == Activation::kRelu6 ? F(6) : infinity};
}

// Where the gradient passes: relu 0 < v, relu6 0 < v < 6. The upper end is the last value that
// passes, since `v < infinity` would stop an infinite value that relu lets through.
template <typename F>
HAST_HOST_DEVICE F gradient_top(Activation activation) {
  if (activation != Activation::kRelu6) return static_cast<F>(INFINITY);
  return sizeof(F) == sizeof(float) ? static_cast<F>(0x1.7ffffep+2)
                                    : static_cast<F>(0x1.7ffffffffffffp+2);
}

template <typename F>
HAST_HOST_DEVICE bool passes_gradient(F value, F top) {
  return value > F(0) && value <= top;
}

}  // namespace HAST_BACKEND
}  // namespace hast
