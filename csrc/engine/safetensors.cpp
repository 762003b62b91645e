#include "engine/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "engine/fields.h"
#include "engine/json.h"
#include "engine/sha256.h"

namespace hast::engine {
namespace {

constexpr size_t kLength = 8;              // bytes of the header's own length, in front of it
constexpr uint64_t kLongest = 16u << 20u;  // bytes of a header: values and steps are few
constexpr size_t kDimensions = 8;          // of a tensor, at most
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

size_t bytes_of(Dtype dtype) {
  return dtype == Dtype::kUint8 ? 1 : dtype == Dtype::kFloat64 ? 8 : 4;
}

uint32_t uint32_at(const uint8_t* data) {
  return data[0] | uint32_t{data[1]} << 8 | uint32_t{data[2]} << 16 | uint32_t{data[3]} << 24;
}

Dtype dtype_of(Fields& fields) {
  const std::string& text = fields.name("dtype");
  if (text == "U8") return Dtype::kUint8;
  if (text == "I32") return Dtype::kInt32;
  if (text == "F32") return Dtype::kFloat32;
  if (text == "F64") return Dtype::kFloat64;
  fields.fail("its dtype is " + quoted(text) + ", not U8, I32, F32 or F64");
}

// Bytes that dtype and shape ask for, if these are `bytes`: no product can overflow on the way.
bool has_bytes(const TensorView& tensor, uint64_t bytes) {
  uint64_t product = bytes_of(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    if (size == 0) return bytes == 0;
  }
  for (const int64_t size : tensor.shape) {
    if (static_cast<uint64_t>(size) > bytes / product) return false;
    product *= static_cast<uint64_t>(size);
  }
  return product == bytes;
}

std::map<std::string, std::string> metadata_of(const Json& json) {
  std::map<std::string, std::string> found;
  const Json::Object* entries = json.as<Json::Object>();
  if (!entries) refuse("__metadata__", "it is no JSON object");
  for (const Member& entry : *entries) {
    const std::string* text = entry.value.as<std::string>();
    if (!text) refuse("metadata " + quoted(entry.key), "it is no text");
    found[entry.key] = *text;
  }
  return found;
}

// Tensors lie one behind the other and fill the data.
void check_layout(std::vector<std::pair<uint64_t, uint64_t>> spans, uint64_t size) {
  std::sort(spans.begin(), spans.end());
  uint64_t end = 0;
  for (const auto& [start, stop] : spans) {
    if (start != end)
      refuse("the tensors", start < end ? "two overlap" : "bytes between two are nobody's");
    end = stop;
  }
  if (end != size) {
    refuse("the tensors",
           "they end at byte " + std::to_string(end) + " of " + std::to_string(size));
  }
}

}  // namespace

int32_t TensorView::int32_at(size_t index) const {
  const uint32_t bits = uint32_at(data + 4 * index);
  int32_t value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float TensorView::float32_at(size_t index) const {
  const uint32_t bits = uint32_at(data + 4 * index);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

double TensorView::float64_at(size_t index) const {
  const uint64_t bits = uint32_at(data + 8 * index) | uint64_t{uint32_at(data + 8 * index + 4)}
                                                          << 32;
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string found = "[";
  for (size_t i = 0; i < shape.size(); ++i) found += (i ? ", " : "") + std::to_string(shape[i]);
  return found + "]";
}

const char* dtype_text(Dtype dtype) {
  switch (dtype) {
    case Dtype::kUint8:
      return "uint8";
    case Dtype::kInt32:
      return "int32";
    case Dtype::kFloat32:
      return "float32";
    case Dtype::kFloat64:
      return "float64";
  }
  return "";
}

TensorFile read_tensors(const uint8_t* data, size_t size) {
  const std::string where = "no student.hast, or one cut short";
  if (size < kLength) refuse(where, "the file has " + std::to_string(size) + " bytes");
  const uint64_t length = uint32_at(data) | uint64_t{uint32_at(data + 4)} << 32;
  if (length > size - kLength) {
    refuse(where, "the file has " + std::to_string(size) + " bytes, its header claims " +
                      std::to_string(length));
  }
  if (length > kLongest) {
    refuse("the header",
           "it has " + std::to_string(length) + " bytes, more than " + std::to_string(kLongest));
  }
  const size_t header_size = static_cast<size_t>(length);
  const uint8_t* content = data + kLength + header_size;
  const uint64_t content_size = size - kLength - header_size;
  Json header;
  try {
    header = parse_json({reinterpret_cast<const char*>(data) + kLength, header_size});
  } catch (const std::runtime_error& error) {
    refuse("no student.hast: the header", error.what());
  }
  const Json::Object* entries = header.as<Json::Object>();
  if (!entries) refuse("no student.hast: the header", "it is no JSON object");

  TensorFile found;
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const Member& entry : *entries) {
    if (entry.key == "__metadata__") {
      found.metadata = metadata_of(entry.value);
      continue;
    }
    Fields fields(entry.value, "tensor " + quoted(entry.key));
    TensorView tensor;
    tensor.dtype = dtype_of(fields);
    tensor.shape = fields.integers("shape", 0, kMost);
    if (tensor.shape.size() > kDimensions) fields.fail("it has more than 8 dimensions");
    int64_t offsets[2];
    fields.fill("data_offsets", offsets, 0, kMost);
    fields.finish();
    const uint64_t start = static_cast<uint64_t>(offsets[0]),
                   stop = static_cast<uint64_t>(offsets[1]);
    if (start > stop || stop > content_size) {
      fields.fail("its bytes " + std::to_string(start) + " to " + std::to_string(stop) +
                  " are not in the file");
    }
    if (!has_bytes(tensor, stop - start)) {
      fields.fail(std::string("a ") + dtype_text(tensor.dtype) + " of shape " +
                  shape_text(tensor.shape) + " does not have " + std::to_string(stop - start) +
                  " bytes");
    }
    tensor.data = content + start;
    tensor.bytes = static_cast<size_t>(stop - start);
    spans.emplace_back(start, stop);
    found.tensors.emplace(entry.key, std::move(tensor));
  }
  check_layout(std::move(spans), content_size);
  return found;
}

std::string digest(const std::string& text, const std::map<std::string, TensorView>& tensors) {
  Sha256 found;
  found.update(text.data(), text.size());
  for (const auto& [name, tensor] : tensors) {
    const std::string line = "[" + ascii_json(name) + ", \"" + dtype_text(tensor.dtype) + "\", " +
                             shape_text(tensor.shape) + "]\n";
    found.update(line.data(), line.size());
    found.update(tensor.data, tensor.bytes);
  }
  return found.hex();
}

}  // namespace hast::engine
