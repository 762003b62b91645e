// One step of torch's ReduceLROnPlateau (mode min, relative threshold, no cooldown) on the device:
//
//   better = loss < best * (1 - threshold): best = loss, bad = 0; otherwise bad += 1
//   bad > patience: bad = 0, and rate = max(rate * factor, minimum) if that is lower by over 1e-8
#pragma once

#include "common/dtype.h"

namespace hast {

struct PlateauStepArgs {
  double* state;     // [3]: learning rate, best loss, bad steps in a row
  float* rate;       // [1]: the learning rate again, for the optimizer
  const void* loss;  // [1]
  double patience, factor, threshold, minimum;
  DType dtype;  // of the loss
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* plateau_step(const PlateauStepArgs& args);

// A NaN loss is not better. Every operation rounds once, as in Python.
template <typename T>
HAST_HOST_DEVICE void step_plateau(const PlateauStepArgs& args) {
  double* state = args.state;
  const double loss = static_cast<double>(to_compute(*static_cast<const T*>(args.loss)));
  const bool better = loss < mul_rn(state[1], sub_rn(1.0, args.threshold));
  if (better) state[1] = loss;
  const double bad = better ? 0.0 : state[2] + 1.0;
  const bool stalled = bad > args.patience;
  state[2] = stalled ? 0.0 : bad;
  const double shrunk = mul_rn(state[0], args.factor);
  const double lower = shrunk < args.minimum ? args.minimum : shrunk;
  if (stalled && sub_rn(state[0], lower) > 1e-8) state[0] = lower;
  *args.rate = static_cast<float>(state[0]);
}

}  // namespace HAST_BACKEND
}  // namespace hast
