// Sixteen channels as arrays, for any processor: loops that a compiler turns into what it has.
#pragma once

#include <cmath>
#include <cstdint>

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

struct F16 {
  float v[16];
};
struct I16 {
  int32_t v[16];
};

template <typename F>
inline F16 each(const F& f) {
  F16 y;
  for (int i = 0; i < 16; ++i) y.v[i] = f(i);
  return y;
}

inline F16 set1(float x) {
  return each([x](int) { return x; });
}
inline F16 load(const float* p) {
  return each([p](int i) { return p[i]; });
}
inline void store(float* p, const F16& x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}
inline F16 fma(const F16& a, const F16& b, const F16& c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F16 add(const F16& a, const F16& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F16 mul(const F16& a, const F16& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
// b where a is not a number
inline F16 max(const F16& a, const F16& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 min(const F16& a, const F16& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 to_float(const I16& x) {
  return each([&](int i) { return static_cast<float>(x.v[i]); });
}
inline F16 load_codes(const uint8_t* p) {
  return each([p](int i) { return static_cast<float>(p[i]); });
}
// Rounded to nearest even; within 0 to 255. Below 2^22, a sum with 3 * 2^22 has no fraction left.
inline void store_codes(uint8_t* p, const F16& x) {
  constexpr float kWhole = 12582912.0f;
  for (int i = 0; i < 16; ++i) {
    const volatile float rounded = x.v[i] + kWhole;
    p[i] = static_cast<uint8_t>(rounded - kWhole);
  }
}

// Sixteen codes as they are.
struct Codes16 {
  uint8_t v[16];
};
inline Codes16 no_codes() { return {}; }
inline Codes16 codes16(const uint8_t* p) {
  Codes16 found;
  for (int i = 0; i < 16; ++i) found.v[i] = p[i];
  return found;
}
inline Codes16 larger(Codes16 a, const Codes16& b) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
inline void store(uint8_t* p, const Codes16& x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}

// The same sixteen channels in double.
struct D16 {
  double v[16];
};
template <typename F>
inline D16 doubles(const F& f) {
  D16 y;
  for (int i = 0; i < 16; ++i) y.v[i] = f(i);
  return y;
}
inline D16 set1(double x) {
  return doubles([x](int) { return x; });
}
inline D16 load(const double* p) {
  return doubles([p](int i) { return p[i]; });
}
inline D16 fma(const D16& a, const D16& b, const D16& c) {
  return doubles([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline D16 max(const D16& a, const D16& b) {
  return doubles([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline D16 min(const D16& a, const D16& b) {
  return doubles([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline D16 to_double(const I16& x) {
  return doubles([&](int i) { return static_cast<double>(x.v[i]); });
}
inline D16 doubles_of_codes(const uint8_t* p) {
  return doubles([p](int i) { return static_cast<double>(p[i]); });
}
inline D16 doubles_of_floats(const float* p) {
  return doubles([p](int i) { return static_cast<double>(p[i]); });
}
inline void store_codes(uint8_t* p, const D16& x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(std::nearbyint(x.v[i]));
}

template <typename W, int kCodes>
struct Products {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 2, kBlocks = 1, kBytes = kCodes;
  using Weight = W;
  using Sum = I16;
  using Weights = const W*;
  struct Input {
    int32_t v[kCodes];
  };
  static Sum zero() { return Sum{}; }
  static Weights weights(const W* p) { return p; }
  static Input input(const uint8_t* p) {
    Input x;
    for (int i = 0; i < kCodes; ++i) x.v[i] = p[i];
    return x;
  }
  static void step(Sum& s, Weights w, const Input& x) {
    for (int o = 0; o < 16; ++o)
      for (int i = 0; i < kCodes; ++i) s.v[o] += x.v[i] * w[o * kCodes + i];
  }
  static void flush(Sum&) {}
  static const I16& total(const Sum& s) { return s; }
};
using Dot = Products<int8_t, 4>;
using Wide = Products<int16_t, 2>;
#define HAST_ENGINE_DOT

constexpr int kFloatPixels = 2, kFloatBlocks = 1, kLargestDotCode = 255;

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
