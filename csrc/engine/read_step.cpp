#include "engine/read_step.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "engine/fields.h"
#include "engine/read_window.h"
#include "engine/step_tensors.h"

namespace hast::engine {
namespace {

constexpr Named kOps[] = {{"convolution", static_cast<int>(Op::kConvolution)},
                          {"convert", static_cast<int>(Op::kConvert)},
                          {"add", static_cast<int>(Op::kAdd)},
                          {"multiply", static_cast<int>(Op::kMultiply)},
                          {"max_pool", static_cast<int>(Op::kMaxPool)},
                          {"average_pool", static_cast<int>(Op::kAveragePool)},
                          {"concatenate", static_cast<int>(Op::kConcatenate)},
                          {"gather", static_cast<int>(Op::kGather)}};

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

// One step while it is read.
class StepReader::Reading {
 public:
  Reading(StepReader& reader, const Json& json)
      : reader_(reader), fields_(json, "step " + std::to_string(reader.steps_)) {}

  Step read() {
    step_.name = fields_.name("name");
    fields_.rename("step " + quoted(step_.name));
    step_.op = static_cast<Op>(fields_.choice("op", kOps));
    for (const int64_t index : fields_.integers("inputs", 0, last_value())) {
      step_.inputs.push_back(made(index, "input"));
    }
    step_.output = static_cast<int>(fields_.integer("output", 0, last_value()));
    if (reader_.made_[static_cast<size_t>(step_.output)]) {
      fields_.fail("its output " + called(output()) + " was made before: a value is made once");
    }
    read_activation(fields_, step_);
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

  void read_convolution() {
    need_inputs(1);
    if (const Json& residual = fields_.any("residual"); !residual.is_null()) {
      const int64_t index = integer_of(residual, fields_.where() + ": 'residual'", 0, last_value());
      step_.residual = made(index, "residual");
      need_shape("residual", value(step_.residual));
    }
    read_window(fields_, input(0), output(), true, step_);
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
    read_window(fields_, input(0), output(), maximum, step_);
    if (maximum && !same_grid(input(0).grid, output().grid)) {
      fields_.fail("the grids of its input " + called(input(0)) + " and its output " +
                   called(output()) + " differ");
    }
    if (!maximum) step_.count_padding = fields_.boolean("count_padding");
    if (!step_.count_padding) need_elements(fields_, input(0), output(), step_);
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
