// Weights of a depthwise convolution in the order of its products.
#include <algorithm>
#include <cmath>

#include "engine/convolution.h"

namespace hast::engine {
namespace {

class DepthwiseWork : public ConvolutionWork {
 public:
  DepthwiseWork(const Window& w, const std::vector<Layout>& layouts, const Kernels& k)
      : ConvolutionWork(w, layouts, k, w.out.channels) {
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
    depthwise.in = window.first(layout, memory);
    depthwise.finish = ending.at(memory, 0);
    kernels.depthwise(depthwise, share);
  }

 private:
  bool quads_fit() const {
    const Step& step = window.step;
    if (!window.in.grid.quantized() || step.weights.empty() || window.largest_weight() > 127)
      return false;
    if (step.dilation[0] != 1 || step.dilation[1] != 1) return false;
    if (!kernels.has_quads(step.kernel[0], step.kernel[1], step.stride[1])) return false;
    if (kernels.has_dot) return true;
    // Without it all products of a channel are summed in 16 bits.
    const double most = 32767.0 / window.in.grid.largest();
    for (int64_t c = 0; c < window.out.channels; ++c) {
      double size = 0.0;
      window.each(c, [&](double w) { size += std::abs(w); });
      if (size > most) return false;
    }
    return true;
  }

  void pack_quads() {
    const int64_t kernel = window.step.kernel[0], quads = parts(kernel, 4);
    const int64_t units = parts(window.out.channels, 32);
    weights = Buffer(static_cast<size_t>(units * kernel * quads * 128));
    int8_t* to = weights.as<int8_t>();
    for (int64_t unit = 0; unit < units; ++unit)
      for (int64_t x = 0; x < kernel; ++x)
        for (int64_t q = 0; q < quads; ++q)
          for (int64_t j = 0; j < 4; ++j)
            for (int64_t lane = 0; lane < 8; ++lane)
              for (int64_t i = 0; i < 4; ++i) {
                const int64_t c = unit * 32 + 4 * j + (lane < 4 ? lane : 12 + lane);
                const int64_t y = 4 * q + i;
                const bool there = c < window.out.channels && y < kernel;
                *to++ = there ? static_cast<int8_t>(window.weight(c, 0, y, x)) : int8_t{0};
              }
    depthwise_.quads = weights.as<int8_t>();
  }

  void pack_plain() {
    const Step& step = window.step;
    weights =
        Buffer(static_cast<size_t>(step.kernel[0] * step.kernel[1] * depthwise_.channels * 4));
    float* to = weights.as<float>();
    for (int64_t y = 0; y < step.kernel[0]; ++y)
      for (int64_t x = 0; x < step.kernel[1]; ++x)
        for (int64_t c = 0; c < depthwise_.channels; ++c)
          *to++ = c < window.out.channels ? static_cast<float>(window.weight(c, 0, y, x)) : 0.0f;
    depthwise_.plain = weights.as<float>();
  }

  Depthwise depthwise_;
};

}  // namespace

std::unique_ptr<Work> prepare_depthwise(const Window& window, const std::vector<Layout>& layouts,
                                        const Kernels& kernels) {
  return std::make_unique<DepthwiseWork>(window, layouts, kernels);
}

}  // namespace hast::engine
