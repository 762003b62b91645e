// Convolutions: how their products are computed, and their weights in that order.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "engine/prepared.h"

namespace hast::engine {
namespace {

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

// A convolution's sizes, and its weights in double: exact for both kinds.
struct Window {
  const Network& network;
  const Step& step;
  const Value &in, &out;
  int64_t inputs, outputs;  // of a group

  Window(const Network& n, const Step& s)
      : network(n),
        step(s),
        in(n.values[static_cast<size_t>(s.inputs[0])]),
        out(n.values[static_cast<size_t>(s.output)]),
        inputs(in.channels / s.groups),
        outputs(out.channels / s.groups) {}

  double weight(int64_t out_channel, int64_t in_channel, int64_t y, int64_t x) const {
    const int64_t place =
        ((out_channel * inputs + in_channel) * step.kernel[0] + y) * step.kernel[1] + x;
    const size_t at = static_cast<size_t>(place);
    return step.weights.empty() ? static_cast<double>(step.float_weights[at])
                                : static_cast<double>(step.weights[at]);
  }
  int largest_weight() const {
    int largest = 0;
    for (const int16_t w : step.weights) largest = std::max(largest, std::abs(w));
    return largest;
  }
  // Of every output: the weights' sum and that of their sizes.
  template <typename F>
  void each(int64_t out_channel, const F& f) const {
    const int64_t size = inputs * step.kernel[0] * step.kernel[1];
    for (int64_t i = 0; i < size; ++i) {
      const size_t at = static_cast<size_t>(out_channel * size + i);
      f(step.weights.empty() ? static_cast<double>(step.float_weights[at])
                             : static_cast<double>(step.weights[at]));
    }
  }
  Ending ending(const std::vector<Layout>& layouts) const {
    std::vector<double> scale(static_cast<size_t>(out.channels)), bias(scale.size());
    const double unit = in.grid.quantized() ? in.grid.step : 1.0;
    const double zero = in.grid.quantized() ? in.grid.zero_point : 0.0;
    for (int64_t o = 0; o < out.channels; ++o) {
      const size_t c = static_cast<size_t>(o);
      double sum = 0.0, size = 0.0;
      each(o, [&](double w) { sum += w, size += std::abs(w); });
      if (in.grid.quantized() && size * in.grid.largest() > 2147483647.0)
        throw std::runtime_error("step '" + step.name + "': sums of its channel " +
                                 std::to_string(o) + " can exceed 32 bits");
      scale[c] = step.scale[c] * unit;
      bias[c] = step.bias[c] - scale[c] * zero * sum;
    }
    return Ending(network, step, layouts, std::move(scale), std::move(bias),
                  in.grid.quantized() && !step.weights.empty());
  }
  Plane first(const Layout& layout, uint8_t* memory) const {
    Plane plane = layout.plane(in, memory);
    const int64_t back = step.padding[0] * layout.row + step.padding[1] * layout.pixel;
    if (plane.codes) plane.codes -= back;
    if (plane.floats) plane.floats -= back;
    return plane;
  }
};

// ---- Every output sees every input of its group -----------------------------------------------

class DenseWork : public Work {
 public:
  DenseWork(const Window& w, const std::vector<Layout>& layouts, const Kernels& kernels)
      : kernels_(kernels),
        window_(w),
        layout_(layouts[static_cast<size_t>(w.step.inputs[0])]),
        ending_(w.ending(layouts)),
        weights_(0) {
    rows = w.out.height;
    blocks = parts(w.outputs, kBlock);
    if (w.in.grid.quantized()) choose();
    inputs_ = !w.in.grid.quantized() ? 1 : product_ == Product::kWide ? 2 : 4;
    steps_ = parts(w.inputs, inputs_);
    walk();
    dense_.runs = runs_.data();
    dense_.run_count = static_cast<int64_t>(runs_.size());
    dense_.stride_y = w.step.stride[0];
    dense_.stride_x = w.step.stride[1];
    dense_.width = w.out.width;
    dense_.block = w.step.kernel[0] * w.step.kernel[1] * steps_ * inputs_ * kBlock;
    if (!w.in.grid.quantized())
      pack<float>();
    else if (product_ == Product::kWide)
      pack<int16_t>();
    else
      pack<int8_t>();
    if (product_ == Product::kPairs && w.in.grid.quantized()) widen();
  }

  void run(uint8_t* memory, const Share& share) const override {
    Dense dense = dense_;
    for (int64_t g = 0; g < window_.step.groups; ++g) {
      dense.in = window_.first(layout_, memory);
      if (dense.in.codes) dense.in.codes += g * window_.inputs;
      if (dense.in.floats) dense.in.floats += g * window_.inputs;
      dense.finish = ending_.at(memory, g * window_.outputs);
      dense.weights = weights_.data() + g * group_bytes_;
      if (window_.in.grid.quantized())
        kernels_.dense_codes(product_, dense, share);
      else
        kernels_.dense_floats(dense, share);
    }
  }

  int64_t weight_bytes() const override { return weights_.size(); }

 private:
  void choose() {
    const int largest = window_.largest_weight();
    if (largest > 127 || (!kernels_.has_dot && !kernels_.has_pairs)) {
      product_ = Product::kWide;
    } else if (kernels_.has_dot) {
      const bool fits = window_.in.grid.largest() <= kernels_.largest_dot_code;
      product_ = fits ? Product::kDot : Product::kWide;
    } else {
      product_ = pairs_fit() ? Product::kPairs : Product::kWide;
    }
  }

  // Two products must not exceed 16 bits, whatever the codes are.
  bool pairs_fit() const {
    const double most = 32767.0 / window_.in.grid.largest();
    for (int64_t o = 0; o < window_.out.channels; ++o)
      for (int64_t y = 0; y < window_.step.kernel[0]; ++y)
        for (int64_t x = 0; x < window_.step.kernel[1]; ++x)
          for (int64_t i = 0; i < window_.inputs; i += 2) {
            double up = 0.0, down = 0.0;
            for (int64_t j = i; j < std::min(i + 2, window_.inputs); ++j) {
              const double w = window_.weight(o, j, y, x);
              (w > 0 ? up : down) += std::abs(w);
            }
            if (std::max(up, down) > most) return false;
          }
    return true;
  }

  void walk() {
    for (int64_t y = 0; y < window_.step.kernel[0]; ++y)
      for (int64_t x = 0; x < window_.step.kernel[1]; ++x) {
        const int64_t offset = y * window_.step.dilation[0] * layout_.row +
                               x * window_.step.dilation[1] * layout_.pixel;
        if (!runs_.empty() && runs_.back().offset + runs_.back().steps * inputs_ == offset)
          runs_.back().steps += steps_;
        else
          runs_.push_back({offset, steps_});
      }
  }

  template <typename T>
  void pack() {
    const Step& step = window_.step;
    group_bytes_ = blocks * dense_.block * static_cast<int64_t>(sizeof(T));
    weights_ = Buffer(static_cast<size_t>(group_bytes_ * step.groups));
    T* to = weights_.as<T>();
    for (int64_t g = 0; g < step.groups; ++g)
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t y = 0; y < step.kernel[0]; ++y)
          for (int64_t x = 0; x < step.kernel[1]; ++x)
            for (int64_t s = 0; s < steps_; ++s)
              for (int64_t o = block * kBlock; o < (block + 1) * kBlock; ++o)
                for (int64_t i = s * inputs_; i < (s + 1) * inputs_; ++i)
                  *to++ = o < window_.outputs && i < window_.inputs
                              ? static_cast<T>(window_.weight(g * window_.outputs + o, i, y, x))
                              : T(0);
  }

  // After how many steps the 16-bit sums have to be widened: as few times as the weights allow.
  void widen() {
    int64_t longest = 0;
    for (const Run& run : runs_) longest = std::max(longest, run.steps);
    if (fits(0)) return;
    for (int64_t pieces = 1;; ++pieces) {
      dense_.flush = parts(longest, pieces);
      if (dense_.flush == 1 || fits(dense_.flush)) return;
    }
  }

  // No sum over `flush` steps (0: over all) of a pair of inputs can leave 16 bits.
  bool fits(int64_t flush) const {
    const double most = 32767.0 / window_.in.grid.largest();
    const int64_t all = blocks * window_.step.groups;
    for (int64_t block = 0; block < all; ++block)
      for (int64_t lane = 0; lane < 2 * kBlock; ++lane) {
        const int8_t* w = weights_.as<int8_t>() + block * dense_.block + 2 * lane;
        double up = 0.0, down = 0.0;
        for (const Run& run : runs_)
          for (int64_t s = 0; s < run.steps; ++s, w += 4 * kBlock) {
            if (flush && s % flush == 0) up = down = 0.0;
            for (int i = 0; i < 2; ++i) (w[i] > 0 ? up : down) += std::abs(w[i]);
            if (std::max(up, down) > most) return false;
          }
      }
    return true;
  }

  const Kernels& kernels_;
  Window window_;
  Layout layout_;
  Ending ending_;
  Buffer weights_;
  Product product_ = Product::kDot;
  int64_t inputs_ = 1, steps_ = 1, group_bytes_ = 0;
  std::vector<Run> runs_;
  Dense dense_;
};

// ---- Every channel by itself --------------------------------------------------------------------

class DepthwiseWork : public Work {
 public:
  DepthwiseWork(const Window& w, const std::vector<Layout>& layouts, const Kernels& kernels)
      : kernels_(kernels),
        window_(w),
        layout_(layouts[static_cast<size_t>(w.step.inputs[0])]),
        ending_(w.ending(layouts)),
        weights_(0) {
    rows = w.out.height;
    blocks = parts(w.out.channels, kBlock);
    depthwise_.channels = blocks * kBlock;
    depthwise_.kernel_y = w.step.kernel[0];
    depthwise_.kernel_x = w.step.kernel[1];
    depthwise_.dilation_y = w.step.dilation[0];
    depthwise_.dilation_x = w.step.dilation[1];
    depthwise_.stride_y = w.step.stride[0];
    depthwise_.stride_x = w.step.stride[1];
    depthwise_.width = w.out.width;
    if (quads_fit())
      pack_quads();
    else
      pack_plain();
  }

  void run(uint8_t* memory, const Share& share) const override {
    Depthwise depthwise = depthwise_;
    depthwise.in = window_.first(layout_, memory);
    depthwise.finish = ending_.at(memory, 0);
    kernels_.depthwise(depthwise, share);
  }

  int64_t weight_bytes() const override { return weights_.size(); }

 private:
  bool quads_fit() const {
    const Step& step = window_.step;
    if (!window_.in.grid.quantized() || step.weights.empty() || window_.largest_weight() > 127)
      return false;
    if (step.dilation[0] != 1 || step.dilation[1] != 1) return false;
    if (!kernels_.has_quads(step.kernel[0], step.kernel[1], step.stride[1])) return false;
    if (kernels_.has_dot) return true;
    // Without it all products of a channel are summed in 16 bits.
    const double most = 32767.0 / window_.in.grid.largest();
    for (int64_t c = 0; c < window_.out.channels; ++c) {
      double size = 0.0;
      window_.each(c, [&](double w) { size += std::abs(w); });
      if (size > most) return false;
    }
    return true;
  }

  void pack_quads() {
    const int64_t kernel = window_.step.kernel[0], quads = parts(kernel, 4);
    const int64_t units = parts(window_.out.channels, 32);
    weights_ = Buffer(static_cast<size_t>(units * kernel * quads * 128));
    int8_t* to = weights_.as<int8_t>();
    for (int64_t unit = 0; unit < units; ++unit)
      for (int64_t x = 0; x < kernel; ++x)
        for (int64_t q = 0; q < quads; ++q)
          for (int64_t j = 0; j < 4; ++j)
            for (int64_t lane = 0; lane < 8; ++lane)
              for (int64_t i = 0; i < 4; ++i) {
                const int64_t c = unit * 32 + 4 * j + (lane < 4 ? lane : 12 + lane);
                const int64_t y = 4 * q + i;
                const bool there = c < window_.out.channels && y < kernel;
                *to++ = there ? static_cast<int8_t>(window_.weight(c, 0, y, x)) : int8_t{0};
              }
    depthwise_.quads = weights_.as<int8_t>();
  }

  void pack_plain() {
    const Step& step = window_.step;
    weights_ =
        Buffer(static_cast<size_t>(step.kernel[0] * step.kernel[1] * depthwise_.channels * 4));
    float* to = weights_.as<float>();
    for (int64_t y = 0; y < step.kernel[0]; ++y)
      for (int64_t x = 0; x < step.kernel[1]; ++x)
        for (int64_t c = 0; c < depthwise_.channels; ++c)
          *to++ = c < window_.out.channels ? static_cast<float>(window_.weight(c, 0, y, x)) : 0.0f;
    depthwise_.plain = weights_.as<float>();
  }

  const Kernels& kernels_;
  Window window_;
  Layout layout_;
  Ending ending_;
  Buffer weights_;
  Depthwise depthwise_;
};

}  // namespace

std::unique_ptr<Work> prepare_convolution(const Network& network, const Step& step,
                                          const std::vector<Layout>& layouts,
                                          const Kernels& kernels) {
  const Window window(network, step);
  if (step.groups > 1 && window.inputs == 1 && window.outputs == 1)
    return std::make_unique<DepthwiseWork>(window, layouts, kernels);
  return std::make_unique<DenseWork>(window, layouts, kernels);
}

}  // namespace hast::engine
