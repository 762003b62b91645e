// Scale, bias, residual, activation and grid of a step as the kernels take them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/prepared.h"

namespace hast::engine {

Ending::Ending(const Network& network, const Step& step, const std::vector<Layout>& layouts,
               std::vector<double> scale, std::vector<double> bias, bool whole)
    : out_(network.values[static_cast<size_t>(step.output)]),
      residual_(step.residual < 0 ? nullptr : &network.values[static_cast<size_t>(step.residual)]),
      out_layout_(layouts[static_cast<size_t>(step.output)]) {
  const Grid& grid = out_.grid;
  const bool clips = step.activation == Activation::kNone || step.activation == Activation::kClip;
  const double unit = grid.quantized() ? 1.0 / grid.step : 1.0;
  double residual_scale = 1.0, residual_zero = 0.0;
  if (residual_) {
    residual_layout_ = layouts[static_cast<size_t>(step.residual)];
    if (residual_->grid.quantized()) {
      residual_scale = residual_->grid.step;
      residual_zero = residual_scale * residual_->grid.zero_point;
    }
  }
  finish_.low = -std::numeric_limits<float>::infinity();
  finish_.high = std::numeric_limits<float>::infinity();
  if (step.activation == Activation::kClip) {
    finish_.low = step.a;
    finish_.high = step.b;
  }
  const double inside = clips ? unit : 1.0;  // before the activation or behind it
  const double zero = grid.quantized() ? grid.zero_point : 0.0;
  if (grid.quantized()) {
    const double largest = grid.largest();
    auto code = [&](float end) {
      return static_cast<float>(std::clamp(std::nearbyint(end * unit + zero), 0.0, largest));
    };
    finish_.low = clips ? code(finish_.low) : 0.0f;
    finish_.high = clips ? code(finish_.high) : static_cast<float>(largest);
  }
  if (!clips) {
    finish_.activation = step.activation;
    finish_.a = step.a;
    finish_.b = step.b;
    finish_.inverse_step = static_cast<float>(unit);
    finish_.zero = static_cast<float>(zero);
  }
  finish_.residual_scale = static_cast<float>(residual_scale * inside);
  const size_t padded = static_cast<size_t>((out_.channels + kBlock - 1) / kBlock + 1) * kBlock;
  scale_.assign(padded, 0.0f);
  bias_.assign(padded, 0.0f);
  for (size_t c = 0; c < scale.size(); ++c) {
    scale_[c] = static_cast<float>(scale[c] * inside);
    bias_[c] = static_cast<float>((bias[c] - residual_zero) * inside + (clips ? zero : 0.0));
  }
  if (!whole || !residual_ || !grid.quantized() || !clips) return;
  exact_scale_.assign(padded, 0.0);
  exact_bias_.assign(padded, 0.0);
  for (size_t c = 0; c < scale.size(); ++c) {
    exact_scale_[c] = scale[c] * unit;
    exact_bias_[c] = (bias[c] - residual_zero) * unit + zero;
  }
  finish_.exact_residual = residual_scale * unit;
}

Finish Ending::at(uint8_t* memory, int64_t from) const {
  Finish found = finish_;
  found.scale = scale_.data() + from;
  found.bias = bias_.data() + from;
  if (!exact_scale_.empty()) {
    found.exact_scale = exact_scale_.data() + from;
    found.exact_bias = exact_bias_.data() + from;
  }
  found.out = out_layout_.plane(out_, memory);
  auto move = [from](Plane& plane) {
    if (plane.codes) plane.codes += from;
    if (plane.floats) plane.floats += from;
  };
  move(found.out);
  if (residual_) {
    found.residual = residual_layout_.plane(*residual_, memory);
    move(found.residual);
  }
  return found;
}

}  // namespace hast::engine
