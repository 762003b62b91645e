// Steps without weights: pools, sums, products, conversions, concatenation, gathering.
#include <algorithm>
#include <cmath>

#include "engine/prepared.h"

namespace hast::engine {
namespace {

const Value& value_of(const Network& network, int index) {
  return network.values[static_cast<size_t>(index)];
}

int64_t blocks_of(const Value& value) { return (value.channels + kBlock - 1) / kBlock; }

Ending ending(const Network& network, const Step& step, const std::vector<Layout>& layouts,
              double scale, double bias) {
  const size_t channels = static_cast<size_t>(value_of(network, step.output).channels);
  return Ending(network, step, layouts, std::vector<double>(channels, scale),
                std::vector<double>(channels, bias), false);
}

class PoolWork : public Work {
 public:
  PoolWork(const Network& network, const Step& step, const std::vector<Layout>& layouts,
           const Kernels& kernels)
      : kernels_(kernels),
        in_(value_of(network, step.inputs[0])),
        layout_(layouts[static_cast<size_t>(step.inputs[0])]),
        ending_(ending(network, step, layouts, unit(), maximum(step) ? -unit() * zero() : 0.0)) {
    const Value& out = value_of(network, step.output);
    rows = out.height;
    blocks = blocks_of(out);
    pool_.average = !maximum(step);
    pool_.count_padding = step.count_padding;
    pool_.kernel_y = step.kernel[0];
    pool_.kernel_x = step.kernel[1];
    pool_.dilation_y = step.dilation[0];
    pool_.dilation_x = step.dilation[1];
    pool_.stride_y = step.stride[0];
    pool_.stride_x = step.stride[1];
    pool_.top = step.padding[0];
    pool_.left = step.padding[1];
    pool_.in_height = in_.height;
    pool_.in_width = in_.width;
    pool_.width = out.width;
    pool_.zero = static_cast<float>(zero());
  }

  void run(uint8_t* memory, const Share& share) const override {
    Pool pool = pool_;
    pool.in = layout_.plane(in_, memory);
    pool.finish = ending_.at(memory, 0);
    kernels_.pool(pool, share);
  }

 private:
  static bool maximum(const Step& step) { return step.op == Op::kMaxPool; }
  double unit() const { return in_.grid.quantized() ? in_.grid.step : 1.0; }
  double zero() const { return in_.grid.quantized() ? in_.grid.zero_point : 0.0; }

  const Kernels& kernels_;
  const Value& in_;
  Layout layout_;
  Ending ending_;
  Pool pool_;
};

// Conversion, sum and product; a concatenation is a conversion of every input to its place.
class ElementwiseWork : public Work {
 public:
  ElementwiseWork(const Network& network, const Step& step, const std::vector<Layout>& layouts,
                  const Kernels& kernels)
      : kernels_(kernels),
        network_(network),
        layouts_(layouts),
        step_(step),
        ending_(ending(network, step, layouts, 1.0, 0.0)) {
    const Value& out = value_of(network, step.output);
    rows = out.height;
    blocks = step.op == Op::kConcatenate ? 1 : blocks_of(out);
    width_ = out.width;
  }

  void run(uint8_t* memory, const Share& share) const override {
    if (step_.op != Op::kConcatenate) return one(memory, share, step_.inputs[0], 0);
    int64_t from = 0;
    for (const int input : step_.inputs) {
      const Value& value = value_of(network_, input);
      one(memory, {share.row_begin, share.row_end, 0, blocks_of(value)}, input, from);
      from += value.channels;
    }
  }

 private:
  void one(uint8_t* memory, const Share& share, int input, int64_t from) const {
    Elementwise e;
    e.multiply = step_.op == Op::kMultiply;
    e.width = width_;
    take(memory, input, e.in, e.in_step, e.in_zero);
    if (step_.op == Op::kAdd || step_.op == Op::kMultiply)
      take(memory, step_.inputs[1], e.other, e.other_step, e.other_zero);
    e.finish = ending_.at(memory, from);
    kernels_.elementwise(e, share);
  }

  void take(uint8_t* memory, int input, Plane& plane, float& step, float& zero) const {
    const Value& value = value_of(network_, input);
    const Value& out = value_of(network_, step_.output);
    plane = layouts_[static_cast<size_t>(input)].plane(value, memory);
    if (value.height == 1 && out.height > 1) plane.row = 0;
    if (value.width == 1 && out.width > 1) plane.pixel = 0;
    step = static_cast<float>(value.grid.step);
    zero = static_cast<float>(value.grid.zero_point);
  }

  const Kernels& kernels_;
  const Network& network_;
  const std::vector<Layout>& layouts_;
  const Step& step_;
  Ending ending_;
  int64_t width_ = 0;
};

// Single channels, one at a time; nothing but the grid changes.
class GatherWork : public Work {
 public:
  GatherWork(const Network& network, const Step& step, const std::vector<Layout>& layouts)
      : in_(value_of(network, step.inputs[0])),
        out_(value_of(network, step.output)),
        step_(step),
        in_layout_(layouts[static_cast<size_t>(step.inputs[0])]),
        out_layout_(layouts[static_cast<size_t>(step.output)]) {
    rows = out_.height;
  }

  void run(uint8_t* memory, const Share& share) const override {
    const Plane in = in_layout_.plane(in_, memory), out = out_layout_.plane(out_, memory);
    for (int64_t y = share.row_begin; y < share.row_end; ++y)
      for (int64_t x = 0; x < out_.width; ++x) {
        const int64_t from = y * step_.stride[0] * in.row + x * step_.stride[1] * in.pixel;
        const int64_t to = y * out.row + x * out.pixel;
        for (size_t c = 0; c < step_.channels.size(); ++c) {
          const int64_t at = to + static_cast<int64_t>(c);
          float value = 0.0f;
          if (const int32_t channel = step_.channels[c]; channel >= 0)
            value = in.codes
                        ? static_cast<float>(in_.grid.step) *
                              static_cast<float>(in.codes[from + channel] - in_.grid.zero_point)
                        : in.floats[from + channel];
          if (out.codes) {
            const float code = value / static_cast<float>(out_.grid.step) +
                               static_cast<float>(out_.grid.zero_point);
            const float largest = static_cast<float>(out_.grid.largest());
            out.codes[at] = static_cast<uint8_t>(std::nearbyint(std::clamp(code, 0.0f, largest)));
          } else {
            out.floats[at] = value;
          }
        }
      }
  }

 private:
  const Value &in_, &out_;
  const Step& step_;
  Layout in_layout_, out_layout_;
};

}  // namespace

std::unique_ptr<Work> prepare_other(const Network& network, const Step& step,
                                    const std::vector<Layout>& layouts, const Kernels& kernels) {
  switch (step.op) {
    case Op::kMaxPool:
    case Op::kAveragePool:
      return std::make_unique<PoolWork>(network, step, layouts, kernels);
    case Op::kGather:
      return std::make_unique<GatherWork>(network, step, layouts);
    default:
      return std::make_unique<ElementwiseWork>(network, step, layouts, kernels);
  }
}

}  // namespace hast::engine
