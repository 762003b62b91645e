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

inline F16 numbers(const F16& sums) { return sums; }
inline F16 numbers(const I16& sums) { return to_float(sums); }

// Any ending, of one pixel: out of the way of the common ones.
__attribute__((noinline)) inline void finish_any(const Finish& f, const F16& sums, int64_t channel,
                                                 int64_t y, int64_t x) {
  F16 value = fma(sums, load(f.scale + channel), load(f.bias + channel));
  const int64_t from = y * f.residual.row + x * f.residual.pixel + channel;
  if (f.residual.codes)
    value = fma(load_codes(f.residual.codes + from), set1(f.residual_scale), value);
  else if (f.residual.floats)
    value = fma(load(f.residual.floats + from), set1(f.residual_scale), value);
  if (f.activation != Activation::kNone)
    value = fma(activated(value, f.activation, f.a, f.b), set1(f.inverse_step), set1(f.zero));
  value = min(max(value, set1(f.low)), set1(f.high));
  const int64_t at = y * f.out.row + x * f.out.pixel + channel;
  if (f.out.codes)
    store_codes(f.out.codes + at, value);
  else
    store(f.out.floats + at, value);
}

// Sixteen channels from `channel` on, of kP pixels of row y from column x on. What all pixels share
// is read first: a store of codes may, for all that the compiler knows, change anything.
template <int kP, typename Sums>
inline void finish(const Finish& f, const Sums (&sums)[kP], int64_t channel, int64_t y, int64_t x) {
  const bool plain = f.activation == Activation::kNone && !f.residual.codes && !f.residual.floats;
  if (!plain) {
    for (int p = 0; p < kP; ++p) finish_any(f, numbers(sums[p]), channel, y, x + p);
    return;
  }
  const F16 scale = load(f.scale + channel), bias = load(f.bias + channel);
  const F16 low = set1(f.low), high = set1(f.high);
  const int64_t at = y * f.out.row + x * f.out.pixel + channel, pixel = f.out.pixel;
  auto value = [&](int p) { return min(max(fma(numbers(sums[p]), scale, bias), low), high); };
  if (uint8_t* codes = f.out.codes) {
#pragma GCC unroll 8
    for (int p = 0; p < kP; ++p) store_codes(codes + at + p * pixel, value(p));
  } else {
    float* floats = f.out.floats;
#pragma GCC unroll 8
    for (int p = 0; p < kP; ++p) store(floats + at + p * pixel, value(p));
  }
}

// The same for whole numbers that a residual is added to: see kernels.h.
template <int kP>
inline void finish_exactly(const Finish& f, const I16 (&sums)[kP], int64_t channel, int64_t y,
                           int64_t x) {
  const D16 scale = load(f.exact_scale + channel), bias = load(f.exact_bias + channel);
  const D16 low = set1(static_cast<double>(f.low)), high = set1(static_cast<double>(f.high));
  const D16 factor = set1(f.exact_residual);
  const Plane from = f.residual, to = f.out;
  for (int p = 0; p < kP; ++p) {
    const int64_t at = y * from.row + (x + p) * from.pixel + channel;
    const D16 residual =
        from.codes ? doubles_of_codes(from.codes + at) : doubles_of_floats(from.floats + at);
    const D16 value = fma(residual, factor, fma(to_double(sums[p]), scale, bias));
    store_codes(to.codes + y * to.row + (x + p) * to.pixel + channel, min(max(value, low), high));
  }
}

template <int kP>
inline void finish_whole(const Finish& f, const I16 (&sums)[kP], int64_t channel, int64_t y,
                         int64_t x) {
  if (f.exact_scale)
    finish_exactly(f, sums, channel, y, x);
  else
    finish(f, sums, channel, y, x);
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
