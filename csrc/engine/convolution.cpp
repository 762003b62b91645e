#include "engine/convolution.h"

#include <cmath>
#include <stdexcept>

namespace hast::engine {

Ending Window::ending(const std::vector<Layout>& layouts) const {
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

std::unique_ptr<Work> prepare_convolution(const Network& network, const Step& step,
                                          const std::vector<Layout>& layouts,
                                          const Kernels& kernels) {
  const Window window(network, step);
  const bool depthwise = step.groups > 1 && window.inputs == 1 && window.outputs == 1;
  return (depthwise ? prepare_depthwise : prepare_dense)(window, layouts, kernels);
}

}  // namespace hast::engine
