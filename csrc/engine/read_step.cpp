#include "engine/read_step.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/fields.h"
#include "engine/step_tensors.h"

namespace hast::engine {
namespace {

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
    const StepTensors tensors(reader_.file_, reader_.taken_, fields_, step_.name);
    step_.scale = tensors.doubles("scale", {out});
    step_.bias = tensors.doubles("bias", {out});
    const std::vector<int64_t> shape = {out, in / step_.groups, step_.kernel[0], step_.kernel[1]};
    const Json& bits = fields_.any("bits");
    if (bits.is_null()) {
      if (input(0).grid.quantized() && !(step_.groups == in && in == out))
        fields_.fail(
            "its float weights read codes, which only those of a depthwise convolution may");
      step_.float_weights = tensors.floats("weight", shape);
    } else {
      const int64_t width = integer_of(bits, fields_.where() + ": 'bits'", 1, 8);
      step_.weights = tensors.weights(static_cast<int>(width), shape, input(0).grid);
    }
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
