// The document of a student.hast: what is not a step.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <utility>

#include "engine/fields.h"
#include "engine/json.h"
#include "engine/network.h"
#include "engine/read_step.h"
#include "engine/read_window.h"
#include "engine/safetensors.h"

namespace hast::engine {
namespace {

constexpr char kFormat[] = "hast_cuda.engine.v1";
// Codes less their zero point, and steps' multiples of these, are exact in float32.
constexpr int64_t kLargestZeroPoint = int64_t{1} << 24;

const std::string& metadata_entry(const TensorFile& file, const char* key) {
  const auto at = file.metadata.find(key);
  if (at == file.metadata.end()) {
    refuse("no student.hast", "its metadata has no entry " + quoted(key));
  }
  return at->second;
}

// The content of the file, which is whole.
const std::string& checked_content(const TensorFile& file) {
  const std::string& format = metadata_entry(file, "format");
  if (format != kFormat) {
    refuse("no student.hast",
           "its format is " + quoted(format) + ", this version reads " + quoted(kFormat));
  }
  const std::string& content = metadata_entry(file, "content");
  if (metadata_entry(file, "sha256") != digest(content, file.tensors)) {
    refuse("the file is damaged", "its checksum does not fit its contents");
  }
  for (const auto& entry : file.metadata) {
    if (entry.first != "format" && entry.first != "content" && entry.first != "sha256") {
      refuse("metadata",
             "there is an entry " + quoted(entry.first) + ", which this version does not know");
    }
  }
  return content;
}

Grid read_grid(Fields& fields) {
  Grid grid;
  const bool some = fields.find("bits") || fields.find("step") || fields.find("zero_point");
  if (!some) return grid;
  grid.bits = static_cast<int>(fields.integer("bits", 1, 8));
  grid.step = real_of(fields.any("step"), fields.where() + ": 'step'");
  // Not denormal: its reciprocal is finite.
  if (!(grid.step >= std::numeric_limits<float>::min()))
    fields.fail("its step is not above 0, or denormal");
  grid.zero_point =
      static_cast<int>(fields.integer("zero_point", -kLargestZeroPoint, kLargestZeroPoint));
  const double farthest = std::abs(grid.zero_point) + grid.largest();
  if (!(grid.step * farthest <= std::numeric_limits<float>::max()))
    fields.fail("its grid reaches beyond float32");
  return grid;
}

std::vector<Value> read_values(const Json::Array& items) {
  std::vector<Value> values;
  int64_t bytes = 0;
  for (const Json& item : items) {
    Fields fields(item, "value " + std::to_string(values.size()));
    Value value;
    value.name = fields.name("name");
    fields.rename("value " + quoted(value.name));
    int64_t shape[3];
    fields.fill("shape", shape, 1, kLargestSize);
    value.channels = shape[0], value.height = shape[1], value.width = shape[2];
    value.grid = read_grid(fields);
    fields.finish();
    const int64_t own = map_bytes(shape[0], shape[1], shape[2]);
    if (own > kMostBytes) fields.fail("its map of one image takes more than 4 GiB");
    bytes += own;
    if (bytes > kMostBytes) fields.fail("the maps of one image up to here take more than 4 GiB");
    values.push_back(std::move(value));
  }
  return values;
}

void read_input(const Json& json, Network& network) {
  Fields fields(json, "input");
  network.channels = fields.integer("channels", 1, kLargestSize);
  network.height = fields.integer("height", 1, kLargestSize);
  network.width = fields.integer("width", 1, kLargestSize);
  network.mean = fields.reals("mean");
  network.deviation = fields.reals("std");
  fields.finish();
  const size_t channels = static_cast<size_t>(network.channels);
  if (network.mean.size() != channels || network.deviation.size() != channels) {
    fields.fail("it has " + std::to_string(channels) + " channels, " +
                std::to_string(network.mean.size()) + " means and " +
                std::to_string(network.deviation.size()) + " standard deviations");
  }
  for (const float deviation : network.deviation) {
    if (!(deviation >= std::numeric_limits<float>::min())) {
      fields.fail("a standard deviation is not above 0, or denormal");
    }
  }
}

void check_images(const Network& network) {
  if (network.values.empty()) refuse("content", "there are no values");
  const Value& images = network.values[0];
  if (images.channels != network.channels || images.height != network.height ||
      images.width != network.width) {
    refuse("value " + quoted(images.name), "as the first it has the shape of the input");
  }
  if (images.grid.quantized())
    refuse("value " + quoted(images.name), "as the first, the images, it has no bits");
}

std::vector<std::string> read_classes(const Json::Array& items) {
  std::vector<std::string> classes;
  for (const Json& item : items) {
    const std::string where = "class " + std::to_string(classes.size());
    const std::string* name = item.as<std::string>();
    if (!name) refuse(where, "its name is no text");
    check_one_line(*name, where);
    classes.push_back(*name);
  }
  return classes;
}

void check_output(const Network& network) {
  const Value& logits = network.values[static_cast<size_t>(network.output)];
  const std::string where = "output " + quoted(logits.name);
  if (network.output == 0) refuse(where, "these are the images");
  if (logits.grid.quantized()) refuse(where, "it has bits: logits are float32");
  if (logits.height != 1 || logits.width != 1) {
    refuse(where, "it has shape " + shape_text({logits.channels, logits.height, logits.width}) +
                      ", logits have [classes, 1, 1]");
  }
  if (!network.classes.empty() && static_cast<int64_t>(network.classes.size()) != logits.channels) {
    refuse(where, "it has " + std::to_string(logits.channels) + " channels, there are " +
                      std::to_string(network.classes.size()) + " classes");
  }
}

Json parse_content(const std::string& content) {
  try {
    return parse_json(content);
  } catch (const std::runtime_error& error) {
    refuse("content", error.what());
  }
}

}  // namespace

Network parse(const uint8_t* data, size_t size) {
  const TensorFile file = read_tensors(data, size);
  const Json content = parse_content(checked_content(file));
  Fields fields(content, "content");
  Network network;
  read_input(fields.any("input"), network);
  network.classes = read_classes(fields.array("classes"));
  const Json& describe = fields.any("describe");
  if (!describe.as<Json::Object>()) refuse("content: 'describe'", "it is no JSON object");
  network.describe = std::string(describe.text);
  network.values = read_values(fields.array("values"));
  check_images(network);
  const int64_t last = static_cast<int64_t>(network.values.size()) - 1;
  network.output = static_cast<int>(fields.integer("output", 0, last));
  StepReader reader(network.values, file);
  for (const Json& step : fields.array("steps")) network.steps.push_back(reader.read(step));
  fields.finish();
  reader.finish();
  check_output(network);
  return network;
}

}  // namespace hast::engine
