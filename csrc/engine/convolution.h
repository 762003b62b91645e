// A convolution on its way from a file's step to a kernel's argument.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "engine/prepared.h"

namespace hast::engine {

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
  // std::runtime_error for sums that 32 bits cannot hold.
  Ending ending(const std::vector<Layout>& layouts) const;
  Plane first(const Layout& layout, uint8_t* memory) const {
    Plane plane = layout.plane(in, memory);
    const int64_t back = step.padding[0] * layout.row + step.padding[1] * layout.pixel;
    if (plane.codes) plane.codes -= back;
    if (plane.floats) plane.floats -= back;
    return plane;
  }
};

// What convolutions of both kinds keep; of `channels` outputs in blocks.
struct ConvolutionWork : Work {
  ConvolutionWork(const Window& w, const std::vector<Layout>& layouts, const Kernels& k,
                  int64_t channels)
      : kernels(k),
        window(w),
        layout(layouts[static_cast<size_t>(w.step.inputs[0])]),
        ending(w.ending(layouts)),
        weights(0) {
    rows = w.out.height;
    blocks = parts(channels, kBlock);
  }
  int64_t weight_bytes() const override { return weights.size(); }

  const Kernels& kernels;
  const Window window;
  const Layout layout;
  const Ending ending;
  Buffer weights;  // packed
};

// Every output sees every input of its group.
std::unique_ptr<Work> prepare_dense(const Window& window, const std::vector<Layout>& layouts,
                                    const Kernels& kernels);
// Every channel by itself.
std::unique_ptr<Work> prepare_depthwise(const Window& window, const std::vector<Layout>& layouts,
                                        const Kernels& kernels);

}  // namespace hast::engine
