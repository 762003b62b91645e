// All weights of a network quantized with the min and max of each row (output channel), or on a
// grid that stays.
#pragma once

#include "fake_quantize.h"

namespace hast {

struct WeightTensor {
  const void* weight;
  void* output;
  const void* range;  // fp[2 * rows]: lower, then upper ends; null: min and max of each row
  int64_t rows, columns;
  int bits;
};

struct FakeQuantizeWeightsArgs {
  const WeightTensor* tensors;
  int64_t count;
  DType dtype;
  bool real_zero_point;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* fake_quantize_weights(const FakeQuantizeWeightsArgs& args);

}  // namespace HAST_BACKEND
}  // namespace hast
