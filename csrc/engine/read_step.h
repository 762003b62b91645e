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
