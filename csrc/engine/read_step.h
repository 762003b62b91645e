// One step of a network from its JSON and tensors, with everything that kernels rely on checked.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "engine/json.h"
#include "engine/network.h"
#include "engine/safetensors.h"

namespace hast::engine {

// A size, a window's number, an offset: sums of a few and products of two are int64.
constexpr int64_t kLargestSize = int64_t{1} << 30;
// Bytes of float32 that one image's map takes, padded or not, and all its maps together.
constexpr int64_t kMostBytes = int64_t{1} << 32;

// Bytes of so many float32; kMostBytes + 1 where it is more than kMostBytes. Sizes are from 1 to
// 3 * kLargestSize.
int64_t map_bytes(int64_t channels, int64_t height, int64_t width);

class StepReader {
 public:
  // Both outlive this.
  StepReader(const std::vector<Value>& values, const TensorFile& file);

  // Throws std::runtime_error that names the step.
  Step read(const Json& json);

  // After the last step: values that none made, tensors that none took.
  void finish() const;

 private:
  class Reading;

  const std::vector<Value>& values_;
  const TensorFile& file_;
  std::vector<bool> made_;       // by value
  std::set<std::string> taken_;  // names of tensors
  int64_t steps_ = 0;
};

}  // namespace hast::engine
