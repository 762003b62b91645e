// From sums to what a map holds: scale, bias, residual, activation, grid.
#pragma once

#include <cmath>

#include "engine/kernels.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

template <typename F>
inline F16 one_by_one(F16 x, const F& f) {
  float values[16];
  store(values, x);
  for (float& value : values) value = f(value);
  return load(values);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

inline F16 activated(F16 x, Activation activation, float a, float b) {
  const F16 none = set1(0.0f), one = set1(1.0f);
  switch (activation) {
    case Activation::kNone:
    case Activation::kClip:  // low and high do it
      return x;
    case Activation::kLeakyRelu:
      return add(max(x, none), mul(set1(a), min(x, none)));
    case Activation::kHardSwish:
      return mul(x, min(max(fma(x, set1(1.0f / 6.0f), set1(0.5f)), none), one));
    case Activation::kHardSigmoid:
      return min(max(fma(x, set1(a), set1(b)), none), one);
    case Activation::kSigmoid:
      return one_by_one(x, sigmoid);
    case Activation::kSilu:
      return one_by_one(x, [](float v) { return v * sigmoid(v); });
    case Activation::kTanh:
      return one_by_one(x, [](float v) { return std::tanh(v); });
  }
  return x;
}

// Sixteen channels from `channel` on, of the pixel in row y and column x.
inline void finish(const Finish& f, F16 sums, int64_t channel, int64_t y, int64_t x) {
  F16 value = fma(sums, load(f.scale + channel), load(f.bias + channel));
  if (f.residual.codes)
    value = fma(load_codes(f.residual.codes + y * f.residual.row + x * f.residual.pixel + channel),
                set1(f.residual_scale), value);
  else if (f.residual.floats)
    value = fma(load(f.residual.floats + y * f.residual.row + x * f.residual.pixel + channel),
                set1(f.residual_scale), value);
  if (f.activation != Activation::kNone)
    value = fma(activated(value, f.activation, f.a, f.b), set1(f.inverse_step), set1(f.zero));
  value = min(max(value, set1(f.low)), set1(f.high));
  const int64_t at = y * f.out.row + x * f.out.pixel + channel;
  if (f.out.codes)
    store_codes(f.out.codes + at, value);
  else
    store(f.out.floats + at, value);
}

// The same for whole numbers.
inline void finish(const Finish& f, const I16& sums, int64_t channel, int64_t y, int64_t x) {
  if (!f.exact_scale) return finish(f, to_float(sums), channel, y, x);
  const int64_t at = y * f.residual.row + x * f.residual.pixel + channel;
  const D16 residual = f.residual.codes ? doubles_of_codes(f.residual.codes + at)
                                        : doubles_of_floats(f.residual.floats + at);
  D16 value = fma(to_double(sums), load(f.exact_scale + channel), load(f.exact_bias + channel));
  value = fma(residual, set1(f.exact_residual), value);
  value = min(max(value, set1(static_cast<double>(f.low))), set1(static_cast<double>(f.high)));
  store_codes(f.out.codes + y * f.out.row + x * f.out.pixel + channel, value);
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
