// exp and powers for every element, and what a row needs once.
#pragma once

#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

HAST_HOST_DEVICE double exponential(double value) { return exp(value); }

// For arguments up to 0, where a softmax with its maximum subtracted lives, and a sigmoid: within 2
// ulp, exactly 1 at 0, 0 below -87, NaN at NaN. On the host without branches or calls, so that a
// loop over it becomes SIMD code (expf would not without fast math): e^x = 2^n * e^r, |r| <= log(2)
// / 2.
HAST_HOST_DEVICE float exponential(float value) {
#ifdef __CUDA_ARCH__
  return expf(value);
#else
  const float low = -87.0f;
  const float x = value < low ? low : value;
  const float shifted = x * 0x1.715476p+0f + 0x1.8p23f;  // n in the last bits
  const float n = shifted - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // log(2) in two parts
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = (y * r * r + r) + 1.0f;
  const float scale = float_of((bits_of(shifted) + 127u) << 23);
  return value < low ? 0.0f : y * scale;
#endif
}

HAST_HOST_DEVICE float log_one_plus(float value) { return log1pf(value); }
HAST_HOST_DEVICE double log_one_plus(double value) { return log1p(value); }
HAST_HOST_DEVICE float power(float base, float exponent) { return powf(base, exponent); }
HAST_HOST_DEVICE double power(double base, double exponent) { return pow(base, exponent); }

HAST_HOST_DEVICE double logarithm(double value) { return log(value); }

// For normal numbers and NaN. On the host without branches or calls, as above: log(2^n * m) =
// n * log(2) + 2 * artanh(z), z = (m - 1) / (m + 1), of which z^11 / 11 is below an ulp.
HAST_HOST_DEVICE float logarithm(float value) {
#ifdef __CUDA_ARCH__
  return logf(value);
#else
  constexpr uint32_t kRootOfHalf = 0x3F3504F3u;  // m is between it and its double
  const int32_t n = static_cast<int32_t>(bits_of(value) - kRootOfHalf) >> 23;
  const float m = float_of(bits_of(value) - (static_cast<uint32_t>(n) << 23));
  const float z = (m - 1.0f) / (m + 1.0f);
  const float square = z * z;
  float series = 1.0f / 9.0f;
  series = series * square + 1.0f / 7.0f;
  series = series * square + 1.0f / 5.0f;
  series = series * square + 1.0f / 3.0f;
  const float count = static_cast<float>(n);
  const float small = count * -2.12194440e-4f + 2.0f * z * square * series;
  const float y = count * 0.693359375f + (2.0f * z + small);  // log(2) in two parts
  return value != value ? value : y;
#endif
}

// base^exponent for a base from 0 to 1 and an exponent from 0 on; 0^0 is 1. The error is below
// 3e-7, but not in units of a small result's last place. A base of 0 counts as the smallest normal
// number.
template <typename F>
HAST_HOST_DEVICE F power_of_fraction(F base, F exponent) {
  const F least = static_cast<F>(0x1p-126);
  return exponential(exponent * logarithm(base < least ? least : base));
}

}  // namespace HAST_BACKEND
}  // namespace hast
