// Weights of a dense convolution in the order of its products, and which products these are.
#include <algorithm>
#include <cmath>

#include "engine/convolution.h"

namespace hast::engine {
namespace {

class DenseWork : public ConvolutionWork {
 public:
  DenseWork(const Window& w, const std::vector<Layout>& layouts, const Kernels& k)
      : ConvolutionWork(w, layouts, k, w.outputs) {
    // Pixels that lie close: a row of the window is one run, not only a pixel.
    const bool close = layout.pixel == w.inputs && w.step.dilation[1] == 1;
    columns_ = close ? 1 : w.step.kernel[1];
    length_ = close ? w.step.kernel[1] * w.inputs : w.inputs;
    if (w.in.grid.quantized()) choose();
    inputs_ = !w.in.grid.quantized() ? 1 : product_ == Product::kWide ? 2 : 4;
    steps_ = parts(length_, inputs_);
    walk();
    dense_.runs = runs_.data();
    dense_.run_count = static_cast<int64_t>(runs_.size());
    dense_.stride_y = w.step.stride[0];
    dense_.stride_x = w.step.stride[1];
    dense_.width = w.out.width;
    dense_.block = w.step.kernel[0] * columns_ * steps_ * inputs_ * kBlock;
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
    for (int64_t g = 0; g < window.step.groups; ++g) {
      dense.in = window.first(layout, memory);
      if (dense.in.codes) dense.in.codes += g * window.inputs;
      if (dense.in.floats) dense.in.floats += g * window.inputs;
      dense.finish = ending.at(memory, g * window.outputs);
      dense.weights = weights.data() + g * group_bytes_;
      if (window.in.grid.quantized())
        kernels.dense_codes(product_, dense, share);
      else
        kernels.dense_floats(dense, share);
    }
  }

 private:
  void choose() {
    const int largest = window.largest_weight();
    if (largest > 127 || (!kernels.has_dot && !kernels.has_pairs)) {
      product_ = Product::kWide;
    } else if (kernels.has_dot) {
      const bool fits = window.in.grid.largest() <= kernels.largest_dot_code;
      product_ = fits ? Product::kDot : Product::kWide;
    } else {
      product_ = pairs_fit() ? Product::kPairs : Product::kWide;
    }
  }

  // Of what lies `i` places behind the window's row y and column x.
  double weight(int64_t out_channel, int64_t y, int64_t x, int64_t i) const {
    return window.weight(out_channel, i % window.inputs, y, x + i / window.inputs);
  }

  // Two products must not exceed 16 bits, whatever the codes are.
  bool pairs_fit() const {
    const double most = 32767.0 / window.in.grid.largest();
    for (int64_t o = 0; o < window.out.channels; ++o)
      for (int64_t y = 0; y < window.step.kernel[0]; ++y)
        for (int64_t x = 0; x < columns_; ++x)
          for (int64_t i = 0; i < length_; i += 2) {
            double up = 0.0, down = 0.0;
            for (int64_t j = i; j < std::min(i + 2, length_); ++j) {
              const double w = weight(o, y, x, j);
              (w > 0 ? up : down) += std::abs(w);
            }
            if (std::max(up, down) > most) return false;
          }
    return true;
  }

  void walk() {
    for (int64_t y = 0; y < window.step.kernel[0]; ++y)
      for (int64_t x = 0; x < columns_; ++x) {
        const int64_t offset =
            y * window.step.dilation[0] * layout.row + x * window.step.dilation[1] * layout.pixel;
        if (!runs_.empty() && runs_.back().offset + runs_.back().steps * inputs_ == offset)
          runs_.back().steps += steps_;
        else
          runs_.push_back({offset, steps_});
      }
  }

  template <typename T>
  void pack() {
    const Step& step = window.step;
    group_bytes_ = blocks * dense_.block * static_cast<int64_t>(sizeof(T));
    weights = Buffer(static_cast<size_t>(group_bytes_ * step.groups));
    T* to = weights.as<T>();
    for (int64_t g = 0; g < step.groups; ++g)
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t y = 0; y < step.kernel[0]; ++y)
          for (int64_t x = 0; x < columns_; ++x)
            for (int64_t s = 0; s < steps_; ++s)
              for (int64_t o = block * kBlock; o < (block + 1) * kBlock; ++o)
                for (int64_t i = s * inputs_; i < (s + 1) * inputs_; ++i)
                  *to++ = o < window.outputs && i < length_
                              ? static_cast<T>(weight(g * window.outputs + o, y, x, i))
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
    const double most = 32767.0 / window.in.grid.largest();
    const int64_t all = blocks * window.step.groups;
    for (int64_t block = 0; block < all; ++block)
      for (int64_t lane = 0; lane < 2 * kBlock; ++lane) {
        const int8_t* w = weights.as<int8_t>() + block * dense_.block + 2 * lane;
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

  Product product_ = Product::kDot;
  int64_t columns_ = 1, length_ = 1, inputs_ = 1, steps_ = 1, group_bytes_ = 0;
  std::vector<Run> runs_;
  Dense dense_;
};

}  // namespace

std::unique_ptr<Work> prepare_dense(const Window& window, const std::vector<Layout>& layouts,
                                    const Kernels& kernels) {
  return std::make_unique<DenseWork>(window, layouts, kernels);
}

}  // namespace hast::engine
