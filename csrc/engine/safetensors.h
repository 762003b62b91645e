// Tensors and metadata of a safetensors file in memory, all sizes checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace hast::engine {

enum class Dtype { kUint8, kInt32, kFloat32, kFloat64 };

// Part of the file, at any address: read numbers with the functions below.
struct TensorView {
  Dtype dtype = Dtype::kUint8;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;

  int32_t int32_at(size_t index) const;
  float float32_at(size_t index) const;
  double float64_at(size_t index) const;
};

std::string shape_text(const std::vector<int64_t>& shape);  // "[2, 3]"
const char* dtype_text(Dtype dtype);                        // "float32"

struct TensorFile {
  std::map<std::string, std::string> metadata;
  std::map<std::string, TensorView> tensors;  // by name, in order of code points
};

// Throws std::runtime_error: cut short, no safetensors file, tensors that overlap, leave gaps or
// lie outside, other dtypes, a header of more than 16 MiB.
TensorFile read_tensors(const uint8_t* data, size_t size);

// The checksum as hast_cuda/files/tensors.py defines it: SHA-256 of the text and, for each tensor
// in order of name, of a line of JSON [name, dtype, shape] and its bytes.
std::string digest(const std::string& text, const std::map<std::string, TensorView>& tensors);

}  // namespace hast::engine
