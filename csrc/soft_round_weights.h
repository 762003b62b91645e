// Weights between two levels of their grid (AdaRound, Eq. 22 to 24), and the gradients of what
// decides between the levels and of the step of every row (output channel).
//
//   h = clamp(1.2 * sigmoid(V) - 0.1, 0, 1)      k = clamp(base + h, low, low + 2^bits - 1)
//   weight = k * step      R = sum over all elements of all weights of 1 - |2h - 1|^beta
//
//   dV = (g * step * [base + h is in the range of k] - r * 2 * beta * |2h - 1|^(beta - 1)
//        * sign(2h - 1)) * h'(V)      dstep = sum over the row of g * k
#pragma once

#include "common/dtype.h"
#include "common/transcendental.h"

namespace hast {

// All are fp[rows, columns] but for the steps, their gradients and the lows, which are fp[rows].
struct SoftRoundedWeight {
  const void* base;  // whole numbers
  const void* rounding;
  const void* step;
  const void* low;  // whole numbers
  void* weight;
  const void* gradient;  // of the weight; null: zeros
  void* rounding_gradient;
  void* step_gradient;
  int64_t rows, columns;  // at least 1
  int bits;
};

struct SoftRoundWeightsArgs {
  const SoftRoundedWeight* weights;
  int64_t count;
  const void* beta;                  // fp[1]; null: no regulariser
  void* regulariser;                 // fp[1]
  const void* regulariser_gradient;  // fp[1]; null: zero
  double* scratch;                   // [sum of rows], with a regulariser
  uint32_t* counters;                // one, CUDA only
  DType dtype;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* soft_round_weights(const SoftRoundWeightsArgs& args);
const char* soft_round_weights_backward(const SoftRoundWeightsArgs& args);

// h at V, and its derivative. A class whose members are functions, not results: what a loop does
// not ask for is not computed.
template <typename F>
class RectifiedSigmoid {
 public:
  HAST_HOST_DEVICE explicit RectifiedSigmoid(F v)
      : e_(exponential(-absolute(v))), inverse_(F(1) / (F(1) + e_)) {
    const F sigmoid = v < F(0) ? e_ * inverse_ : inverse_;
    stretched_ = static_cast<F>(1.2) * sigmoid - static_cast<F>(0.1);
  }

  HAST_HOST_DEVICE F value() const { return clamp_keep_nan(stretched_, F(0), F(1)); }
  // NaN at NaN. Two selections instead of one with "or", which would keep a loop from being SIMD
  // code.
  HAST_HOST_DEVICE F slope() const {
    const F slope = static_cast<F>(1.2) * e_ * inverse_ * inverse_;
    const F below = stretched_ >= F(1) ? F(0) : slope;
    return stretched_ <= F(0) ? F(0) : below;
  }

 private:
  F e_, inverse_, stretched_;
};

// The gradient that goes on to V: 0 where h is cut, also of an infinite one.
template <typename F>
HAST_HOST_DEVICE F carried(F change, F slope) {
  return slope == F(0) ? F(0) : change * slope;
}

// The levels that a row may take, and how far they are apart.
template <typename F>
struct Levels {
  F low, high, step;

  HAST_HOST_DEVICE Levels(const SoftRoundedWeight& weight, int64_t row)
      : low(static_cast<const F*>(weight.low)[row]),
        high(low + static_cast<F>((1 << weight.bits) - 1)),
        step(static_cast<const F*>(weight.step)[row]) {}

  HAST_HOST_DEVICE F nearest(F level) const { return clamp_keep_nan(level, low, high); }
  // A NaN, too, goes on as it is.
  HAST_HOST_DEVICE bool holds(F level) const { return !(level < low) && !(level > high); }
};

// 1 - |2h - 1|^beta, and its derivative by h.
template <typename F>
HAST_HOST_DEVICE F undecided(F up, F beta) {
  return F(1) - power_of_fraction(absolute(F(2) * up - F(1)), beta);
}

template <typename F>
HAST_HOST_DEVICE F undecided_slope(F up, F beta) {
  const F side = F(2) * up - F(1);
  const F size = F(2) * beta * power_of_fraction(absolute(side), beta - F(1));
  return side > F(0) ? -size : side < F(0) ? size : F(0);
}

}  // namespace HAST_BACKEND
}  // namespace hast
