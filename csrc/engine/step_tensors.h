// The tensors of one step, each taken once, with everything that kernels rely on checked.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "engine/fields.h"
#include "engine/network.h"
#include "engine/safetensors.h"

namespace hast::engine {

class StepTensors {
 public:
  // All outlive this: `taken` are the names that steps took, `fields` says where a mistake is.
  StepTensors(const TensorFile& file, std::set<std::string>& taken, const Fields& fields,
              const std::string& step)
      : file_(file), taken_(taken), fields_(fields), step_(step) {}

  std::vector<float> floats(const char* part, const std::vector<int64_t>& shape) const;
  std::vector<double> doubles(const char* part, const std::vector<int64_t>& shape) const;
  // Of shape [out, in / groups, rows, columns]; their sums over codes of `grid` fit 32 bits.
  std::vector<int16_t> weights(int bits, const std::vector<int64_t>& shape, const Grid& grid) const;

 private:
  // The step's tensor `part`, which must be of this dtype and shape.
  const TensorView& tensor(const char* part, Dtype dtype, const std::vector<int64_t>& shape) const;
  void check_finite(const char* part, double number) const;

  const TensorFile& file_;
  std::set<std::string>& taken_;
  const Fields& fields_;
  const std::string& step_;
};

}  // namespace hast::engine
