#include "engine/read_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/fields.h"

namespace hast::engine {
namespace {

constexpr int64_t kLargestWeight = 255;
constexpr int64_t kLargestSum = std::numeric_limits<int32_t>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Named {
  std::string_view name;
  int which;
};

constexpr Named kOps[] = {{"convolution", static_cast<int>(Op::kConvolution)},
                          {"convert", static_cast<int>(Op::kConvert)},
                          {"add", static_cast<int>(Op::kAdd)},
                          {"multiply", static_cast<int>(Op::kMultiply)},
                          {"max_pool", static_cast<int>(Op::kMaxPool)},
                          {"average_pool", static_cast<int>(Op::kAveragePool)},
                          {"concatenate", static_cast<int>(Op::kConcatenate)},
                          {"gather", static_cast<int>(Op::kGather)}};

constexpr Named kActivations[] = {{"clip", static_cast<int>(Activation::kClip)},
                                  {"leaky_relu", static_cast<int>(Activation::kLeakyRelu)},
                                  {"hard_swish", static_cast<int>(Activation::kHardSwish)},
                                  {"hard_sigmoid", static_cast<int>(Activation::kHardSigmoid)},
                                  {"sigmoid", static_cast<int>(Activation::kSigmoid)},
                                  {"silu", static_cast<int>(Activation::kSilu)},
                                  {"tanh", static_cast<int>(Activation::kTanh)}};

template <size_t n>
int named(Fields& fields, std::string_view key, const Named (&all)[n]) {
  const std::string& name = fields.name(key);
  for (const Named& one : all) {
    if (one.name == name) return one.which;
  }
  std::string known;
  for (const Named& one : all) known += (known.empty() ? "" : ", ") + std::string(one.name);
  fields.fail(quoted(key) + " is " + quoted(name) + ", none of " + known);
}

std::string shape_of(const Value& value) {
  return shape_text({value.channels, value.height, value.width});
}

bool same_shape(const Value& a, const Value& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

bool same_grid(const Grid& a, const Grid& b) {
  if (!a.quantized() || !b.quantized()) return a.quantized() == b.quantized();
  return a.bits == b.bits && a.step == b.step && a.zero_point == b.zero_point;
}

// Value `index` of a stream of codes of `bits` bits, the lowest first, as pack() of
// exports/packed_weight.py writes it.
int code_at(const uint8_t* stream, int64_t index, int bits) {
  const int64_t at = index * bits / 8;
  const int shift = static_cast<int>(index * bits % 8);
  const int next = shift + bits > 8 ? stream[at + 1] : 0;
  return (stream[at] | next << 8) >> shift & ((1 << bits) - 1);
}

}  // namespace

int64_t map_bytes(int64_t channels, int64_t height, int64_t width) {
  int64_t room = kMostBytes / 4;
  for (const int64_t size : {channels, height, width}) {
    if (size > room) return kMostBytes + 1;
    room /= size;
  }
  return 4 * channels * height * width;
}

// One step while it is read.
class StepReader::Reading {
 public:
  Reading(StepReader& reader, const Json& json)
      : reader_(reader), fields_(json, "step " + std::to_string(reader.steps_)) {}

  Step read() {
    step_.name = fields_.name("name");
    fields_.rename("step " + quoted(step_.name));
    step_.op = static_cast<Op>(named(fields_, "op", kOps));
    for (const int64_t index : fields_.integers("inputs", 0, last_value())) {
      step_.inputs.push_back(made(index, "input"));
    }
    step_.output = static_cast<int>(fields_.integer("output", 0, last_value()));
    if (reader_.made_[static_cast<size_t>(step_.output)]) {
      fields_.fail("its output " + called(output()) + " was made before: a value is made once");
    }
    read_activation();
    read_op();
    fields_.finish();
    reader_.made_[static_cast<size_t>(step_.output)] = true;
    return std::move(step_);
  }

 private:
  const Value& value(int index) const { return reader_.values_[static_cast<size_t>(index)]; }
  const Value& input(size_t i) const { return value(step_.inputs[i]); }
  const Value& output() const { return value(step_.output); }
  int64_t last_value() const { return static_cast<int64_t>(reader_.values_.size()) - 1; }
  static std::string called(const Value& value) { return quoted(value.name); }

  int made(int64_t index, const char* what) const {
    if (!reader_.made_[static_cast<size_t>(index)]) {
      fields_.fail("its " + std::string(what) + " " + called(value(static_cast<int>(index))) +
                   " is made by no step before it");
    }
    return static_cast<int>(index);
  }

  void read_op() {
    switch (step_.op) {
      case Op::kConvolution:
        return read_convolution();
      case Op::kConvert:
        need_inputs(1);
        return need_shape("input", input(0));
      case Op::kAdd:
      case Op::kMultiply:
        return read_two();
      case Op::kMaxPool:
      case Op::kAveragePool:
        return read_pool();
      case Op::kConcatenate:
        return read_concatenate();
      case Op::kGather:
        return read_gather();
    }
  }

  void need_inputs(size_t count) const {
    if (step_.inputs.size() != count) {
      fields_.fail("it has " + std::to_string(step_.inputs.size()) + " inputs instead of " +
                   std::to_string(count));
    }
  }

  void need_shape(const char* what, const Value& other) const {
    if (!same_shape(other, output())) {
      fields_.fail("its " + std::string(what) + " " + called(other) + " has shape " +
                   shape_of(other) + ", its output " + called(output()) + " " + shape_of(output()));
    }
  }

  void need_no_activation() const {
    if (step_.activation != Activation::kNone) {
      fields_.fail("this op has no activation: a step 'convert' behind it has");
    }
  }

  // a and b: where an activation does not have them, they are null or not there.
  void read_activation() {
    const Json& json = fields_.any("activation");
    if (json.is_null()) return;
    Fields fields(json, fields_.where() + ": activation");
    step_.activation = static_cast<Activation>(named(fields, "kind", kActivations));
    const bool clip = step_.activation == Activation::kClip;
    const bool has_b = clip || step_.activation == Activation::kHardSigmoid;
    const bool has_a = has_b || step_.activation == Activation::kLeakyRelu;
    step_.a = parameter(fields, "a", has_a, clip, -kInfinity);
    step_.b = parameter(fields, "b", has_b, clip, kInfinity);
    if (clip && step_.a > step_.b) fields.fail("'a' is larger than 'b'");
    fields.finish();
  }

  static float parameter(Fields& fields, std::string_view key, bool has, bool nullable,
                         float null) {
    if (!has) {
      const Json* found = fields.find(key);
      if (found && !found->is_null()) fields.fail("this kind has no " + quoted(key));
      return 0;
    }
    const Json& found = fields.any(key);
    if (nullable && found.is_null()) return null;
    return static_cast<float>(real_of(found, fields.where() + ": " + quoted(key)));
  }

  void read_window(bool dilated) {
    fields_.fill("kernel", step_.kernel, 1, kLargestSize);
    fields_.fill("stride", step_.stride, 1, kLargestSize);
    if (dilated) fields_.fill("dilation", step_.dilation, 1, kLargestSize);
    fields_.fill("padding", step_.padding, 0, kLargestSize);
    const int64_t sizes[2] = {input(0).height, input(0).width};
    const int64_t given[2] = {output().height, output().width};
    int64_t padded[2];
    for (int axis = 0; axis < 2; ++axis) {
      const std::string what = axis == 0 ? " rows" : " columns";
      padded[axis] = sizes[axis] + step_.padding[axis] + step_.padding[axis + 2];
      const int64_t extent = step_.dilation[axis] * (step_.kernel[axis] - 1) + 1;
      if (extent > padded[axis]) {
        fields_.fail("its kernel reaches over " + std::to_string(extent) + what +
                     ", its padded input has " + std::to_string(padded[axis]));
      }
      const int64_t made = (padded[axis] - extent) / step_.stride[axis] + 1;
      if (made != given[axis]) {
        fields_.fail("its output " + called(output()) + " has " + std::to_string(given[axis]) +
                     what + ", its window makes " + std::to_string(made) + " of " +
                     std::to_string(sizes[axis]));
      }
    }
    if (map_bytes(input(0).channels, padded[0], padded[1]) > kMostBytes) {
      fields_.fail("its padded input takes more than 4 GiB");
    }
  }

  // Every window of a pool has an element that is no padding: of none there is no maximum.
  void need_elements() const {
    const int64_t sizes[2] = {input(0).height, input(0).width};
    const int64_t counts[2] = {output().height, output().width};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t stride = step_.stride[axis], dilation = step_.dilation[axis];
      bool all = (counts[axis] - 1) * stride - step_.padding[axis] < sizes[axis];
      for (int64_t i = 0; all && i < counts[axis]; ++i) {
        const int64_t start = i * stride - step_.padding[axis];
        if (start >= 0) break;
        const int64_t tap = (-start + dilation - 1) / dilation;  // the first not before the input
        all = tap < step_.kernel[axis] && start + tap * dilation < sizes[axis];
      }
      if (!all) fields_.fail("one of its windows has nothing but padding");
    }
  }

  void read_convolution() {
    need_inputs(1);
    if (const Json& residual = fields_.any("residual"); !residual.is_null()) {
      const int64_t index = integer_of(residual, fields_.where() + ": 'residual'", 0, last_value());
      step_.residual = made(index, "residual");
      need_shape("residual", value(step_.residual));
    }
    read_window(true);
    const int64_t in = input(0).channels, out = output().channels;
    step_.groups = fields_.integer("groups", 1, kLargestSize);
    if (in % step_.groups != 0 || out % step_.groups != 0) {
      fields_.fail("its " + std::to_string(step_.groups) + " groups do not divide its " +
                   std::to_string(in) + " input and " + std::to_string(out) + " output channels");
    }
    const bool padded =
        std::any_of(step_.padding, step_.padding + 4, [](int64_t p) { return p > 0; });
    if (padded && input(0).grid.quantized() && !input(0).grid.contains_zero()) {
      fields_.fail("it pads with zeros, which the grid of its input " + called(input(0)) +
                   " does not contain");
    }
    step_.scale = doubles("scale", {out});
    step_.bias = doubles("bias", {out});
    const std::vector<int64_t> shape = {out, in / step_.groups, step_.kernel[0], step_.kernel[1]};
    const Json& bits = fields_.any("bits");
    if (bits.is_null()) {
      if (input(0).grid.quantized() && !(step_.groups == in && in == out))
        fields_.fail(
            "its float weights read codes, which only those of a depthwise convolution may");
      step_.float_weights = floats("weight", shape);
    } else {
      read_codes(static_cast<int>(integer_of(bits, fields_.where() + ": 'bits'", 1, 8)), shape);
    }
  }

  void read_codes(int bits, const std::vector<int64_t>& shape) {
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
    const Grid& grid = input(0).grid;
    const int64_t largest_code = grid.quantized() ? grid.largest() : 0;
    const int64_t row = count / shape[0];
    step_.weights.reserve(static_cast<size_t>(count));
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
        step_.weights.push_back(static_cast<int16_t>(weight));
      }
      if (largest_code > 0 && sum > kLargestSum / largest_code) {
        fields_.fail("output channel " + std::to_string(o) + " can sum to more than 32 bits hold");
      }
    }
  }

  // The step's tensor `part`, which must be of this dtype and shape.
  const TensorView& tensor(const char* part, Dtype dtype, const std::vector<int64_t>& shape) {
    const std::string name = step_.name + "." + part;
    const auto at = reader_.file_.tensors.find(name);
    if (at == reader_.file_.tensors.end()) fields_.fail("the file has no tensor " + quoted(name));
    if (!reader_.taken_.insert(name).second) fields_.fail("another convolution has this name");
    const TensorView& found = at->second;
    if (found.dtype != dtype || found.shape != shape) {
      fields_.fail("its tensor " + quoted(name) + " is " + dtype_text(found.dtype) + " " +
                   shape_text(found.shape) + " instead of " + dtype_text(dtype) + " " +
                   shape_text(shape));
    }
    return found;
  }

  std::vector<float> floats(const char* part, const std::vector<int64_t>& shape) {
    const TensorView& found = tensor(part, Dtype::kFloat32, shape);
    std::vector<float> numbers(found.bytes / 4);
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = found.float32_at(i);
      check_finite(part, static_cast<double>(numbers[i]));
    }
    return numbers;
  }

  std::vector<double> doubles(const char* part, const std::vector<int64_t>& shape) {
    const TensorView& found = tensor(part, Dtype::kFloat64, shape);
    std::vector<double> numbers(found.bytes / 8);
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = found.float64_at(i);
      check_finite(part, numbers[i]);
    }
    return numbers;
  }

  void check_finite(const char* part, double number) {
    if (std::fabs(number) <= static_cast<double>(std::numeric_limits<float>::max())) return;
    fields_.fail("its tensor " + quoted(step_.name + "." + part) +
                 " has numbers that are not finite in float32");
  }

  void read_two() {
    need_inputs(2);
    need_shape("first input", input(0));
    const Value& second = input(1);
    if (second.channels != output().channels || second.height != 1 || second.width != 1) {
      need_shape("second input", second);
    }
  }

  void read_pool() {
    const bool maximum = step_.op == Op::kMaxPool;
    need_inputs(1);
    need_no_activation();
    if (input(0).channels != output().channels) {
      fields_.fail("it has " + std::to_string(input(0).channels) + " input and " +
                   std::to_string(output().channels) + " output channels");
    }
    read_window(maximum);
    if (maximum && !same_grid(input(0).grid, output().grid)) {
      fields_.fail("the grids of its input " + called(input(0)) + " and its output " +
                   called(output()) + " differ");
    }
    if (!maximum) step_.count_padding = fields_.boolean("count_padding");
    if (!step_.count_padding) need_elements();
  }

  void read_concatenate() {
    need_no_activation();
    if (step_.inputs.empty()) fields_.fail("it has no inputs");
    int64_t channels = 0;
    for (const int index : step_.inputs) {
      const Value& one = value(index);
      if (one.height != output().height || one.width != output().width) need_shape("input", one);
      channels += one.channels;
    }
    if (channels != output().channels) {
      fields_.fail("its inputs have " + std::to_string(channels) + " channels, its output " +
                   called(output()) + " " + std::to_string(output().channels));
    }
  }

  void read_gather() {
    need_inputs(1);
    need_no_activation();
    const Value& from = input(0);
    for (const int64_t channel : fields_.integers("channels", -1, from.channels - 1)) {
      step_.channels.push_back(static_cast<int32_t>(channel));
    }
    if (static_cast<int64_t>(step_.channels.size()) != output().channels) {
      fields_.fail("it names " + std::to_string(step_.channels.size()) +
                   " channels, its output has " + std::to_string(output().channels));
    }
    fields_.fill("stride", step_.stride, 1, kLargestSize);
    const int64_t height = (from.height + step_.stride[0] - 1) / step_.stride[0];
    const int64_t width = (from.width + step_.stride[1] - 1) / step_.stride[1];
    if (height != output().height || width != output().width) {
      fields_.fail("its output " + called(output()) + " has shape " + shape_of(output()) +
                   ", its stride makes " + shape_text({output().channels, height, width}));
    }
  }

  StepReader& reader_;
  Fields fields_;
  Step step_;
};

StepReader::StepReader(const std::vector<Value>& values, const TensorFile& file)
    : values_(values), file_(file), made_(values.size()) {
  made_[0] = true;  // the images
}

Step StepReader::read(const Json& json) {
  Step found = Reading(*this, json).read();
  ++steps_;
  return found;
}

void StepReader::finish() const {
  for (size_t i = 0; i < made_.size(); ++i) {
    if (!made_[i]) refuse("value " + quoted(values_[i].name), "no step makes it");
  }
  for (const auto& entry : file_.tensors) {
    if (taken_.count(entry.first) == 0) refuse("tensor " + quoted(entry.first), "no step uses it");
  }
}

}  // namespace hast::engine
