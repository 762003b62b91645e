// The range of an activation: a moving average of its minimum and maximum.
#pragma once

#include "common/activation.h"
#include "common/dtype.h"

namespace hast {

struct UpdateRangeArgs {
  const void* x;
  void* state;         // fp[5]: lower, upper, raw lower, raw upper, beta^t
  void* scratch;       // fp[update_range_scratch(size)]
  uint32_t* counters;  // one, zero on entry and on exit; CUDA only
  DType dtype;
  int64_t size;
  Activation activation;
  double beta;
  bool released;  // feed the bias-corrected value back, as the published code does
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

int64_t update_range_scratch(int64_t size);
const char* update_range(const UpdateRangeArgs& args);

// One step of the moving average. Every operation rounds by itself, as eager code does.
//   correct:   m = m*beta + v*(1-beta),            bound = m / (1 - beta^t)
//   released:  bound = (bound*beta + v*(1-beta)) / (1 - beta^t), m = bound: the correction is
//              compounded, which takes some 150 steps to fade. Kept for comparison with the paper.
template <typename F>
HAST_HOST_DEVICE void step_range(F* state, F low, F high, F beta, F rest, bool released) {
  const F power = mul_rn(state[4], beta);
  const F correction = sub_rn(F(1), power);
  const F observed[2] = {low, high};
  for (int i = 0; i < 2; ++i) {
    const F previous = released ? state[i] : state[2 + i];
    const F average = add_rn(mul_rn(previous, beta), mul_rn(observed[i], rest));
    const F bound = average / correction;
    state[i] = bound;
    state[2 + i] = released ? bound : average;
  }
  state[4] = power;
}

}  // namespace HAST_BACKEND
}  // namespace hast
