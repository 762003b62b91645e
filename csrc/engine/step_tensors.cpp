#include "engine/step_tensors.h"

#include <cmath>
#include <cstdlib>
#include <limits>

namespace hast::engine {
namespace {

constexpr int64_t kLargestWeight = 255;
constexpr int64_t kLargestSum = std::numeric_limits<int32_t>::max();

// Value `index` of a stream of codes of `bits` bits, the lowest first, as pack() of
// exports/packed_weight.py writes it.
int code_at(const uint8_t* stream, int64_t index, int bits) {
  const int64_t at = index * bits / 8;
  const int shift = static_cast<int>(index * bits % 8);
  const int next = shift + bits > 8 ? stream[at + 1] : 0;
  return (stream[at] | next << 8) >> shift & ((1 << bits) - 1);
}

}  // namespace

const TensorView& StepTensors::tensor(const char* part, Dtype dtype,
                                      const std::vector<int64_t>& shape) const {
  const std::string name = step_ + "." + part;
  const auto at = file_.tensors.find(name);
  if (at == file_.tensors.end()) fields_.fail("the file has no tensor " + quoted(name));
  if (!taken_.insert(name).second) fields_.fail("another convolution has this name");
  const TensorView& found = at->second;
  if (found.dtype != dtype || found.shape != shape) {
    fields_.fail("its tensor " + quoted(name) + " is " + dtype_text(found.dtype) + " " +
                 shape_text(found.shape) + " instead of " + dtype_text(dtype) + " " +
                 shape_text(shape));
  }
  return found;
}

std::vector<float> StepTensors::floats(const char* part, const std::vector<int64_t>& shape) const {
  const TensorView& found = tensor(part, Dtype::kFloat32, shape);
  std::vector<float> numbers(found.bytes / 4);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = found.float32_at(i);
    check_finite(part, static_cast<double>(numbers[i]));
  }
  return numbers;
}

std::vector<double> StepTensors::doubles(const char* part,
                                         const std::vector<int64_t>& shape) const {
  const TensorView& found = tensor(part, Dtype::kFloat64, shape);
  std::vector<double> numbers(found.bytes / 8);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = found.float64_at(i);
    check_finite(part, numbers[i]);
  }
  return numbers;
}

void StepTensors::check_finite(const char* part, double number) const {
  if (std::fabs(number) <= static_cast<double>(std::numeric_limits<float>::max())) return;
  fields_.fail("its tensor " + quoted(step_ + "." + part) +
               " has numbers that are not finite in float32");
}

std::vector<int16_t> StepTensors::weights(int bits, const std::vector<int64_t>& shape,
                                          const Grid& grid) const {
  // Below 2^60: a row is not larger than the padded input, which like the output's channels has
  // less than 2^30 elements.
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  const int64_t bytes = (count * bits + 7) / 8;
  const TensorView& codes = tensor("codes", Dtype::kUint8, {bytes});
  const int64_t unused = bytes * 8 - count * bits;
  if (unused > 0 && codes.data[bytes - 1] >> (8 - unused) != 0) {
    fields_.fail("its codes have bits behind the last");
  }
  const TensorView& zero_point = tensor("zero_point", Dtype::kInt32, {shape[0]});
  const int64_t largest_code = grid.quantized() ? grid.largest() : 0;
  const int64_t row = count / shape[0];
  std::vector<int16_t> found;
  found.reserve(static_cast<size_t>(count));
  for (int64_t o = 0; o < shape[0]; ++o) {
    const int64_t zero = zero_point.int32_at(static_cast<size_t>(o));
    int64_t sum = 0;
    for (int64_t i = o * row; i < (o + 1) * row; ++i) {
      const int64_t weight = code_at(codes.data, i, bits) - zero;
      if (std::abs(weight) > kLargestWeight) {
        fields_.fail("output channel " + std::to_string(o) + " has the weight " +
                     std::to_string(weight) + ", not from -255 to 255");
      }
      sum += std::abs(weight);
      found.push_back(static_cast<int16_t>(weight));
    }
    if (largest_code > 0 && sum > kLargestSum / largest_code) {
      fields_.fail("output channel " + std::to_string(o) + " can sum to more than 32 bits hold");
    }
  }
  return found;
}

}  // namespace hast::engine
