// Sixteen channels in one register of 512 bits, products by VNNI.
#pragma once

#include "engine/simd_x86.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

struct F16 {
  __m512 v;
};
struct I16 {
  __m512i v;
};

inline F16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F16 x) { _mm512_storeu_ps(p, x.v); }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
// b where a is not a number
inline F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 to_float(I16 x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline F16 load_codes(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Rounded to nearest even; within 0 to 255.
inline void store_codes(uint8_t* p, F16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v)));
}

// The same sixteen channels in double.
struct D16 {
  __m512d v[2];
};
inline D16 set1(double x) { return {{_mm512_set1_pd(x), _mm512_set1_pd(x)}}; }
inline D16 load(const double* p) { return {{_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}}; }
inline D16 fma(const D16& a, const D16& b, const D16& c) {
  return {{_mm512_fmadd_pd(a.v[0], b.v[0], c.v[0]), _mm512_fmadd_pd(a.v[1], b.v[1], c.v[1])}};
}
inline D16 max(const D16& a, const D16& b) {
  return {{_mm512_max_pd(a.v[0], b.v[0]), _mm512_max_pd(a.v[1], b.v[1])}};
}
inline D16 min(const D16& a, const D16& b) {
  return {{_mm512_min_pd(a.v[0], b.v[0]), _mm512_min_pd(a.v[1], b.v[1])}};
}
inline D16 to_double(I16 x) {
  return {{_mm512_cvtepi32_pd(_mm512_castsi512_si256(x.v)),
           _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(x.v, 1))}};
}
inline D16 doubles_of_codes(const uint8_t* p) {
  return to_double({_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))});
}
inline D16 doubles_of_floats(const float* p) {
  return {{_mm512_cvtps_pd(_mm256_loadu_ps(p)), _mm512_cvtps_pd(_mm256_loadu_ps(p + 8))}};
}
inline I16 join(__m256i low, __m256i high) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)};
}
inline void store_codes(uint8_t* p, const D16& x) {
  const I16 codes = join(_mm512_cvtpd_epi32(x.v[0]), _mm512_cvtpd_epi32(x.v[1]));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(codes.v));
}

struct Dot {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 8, kBlocks = 2, kBytes = 4;
  using Weight = int8_t;
  using Sum = I16;
  using Weights = __m512i;
  static Sum zero() { return {_mm512_setzero_si512()}; }
  static Weights weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static __m512i input(const uint8_t* p) { return _mm512_set1_epi32(load4(p)); }
  static void step(Sum& s, Weights w, __m512i x) { s.v = _mm512_dpbusd_epi32(s.v, x, w); }
  static void flush(Sum&) {}
  static I16 total(const Sum& s) { return s; }
};
#define HAST_ENGINE_DOT

// 16-bit weights, 2 inputs a step.
struct Wide {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 8, kBlocks = 1, kBytes = 2;
  using Weight = int16_t;
  using Sum = I16;
  using Weights = __m512i;
  static Sum zero() { return {_mm512_setzero_si512()}; }
  static Weights weights(const int16_t* p) { return _mm512_loadu_si512(p); }
  static __m512i input(const uint8_t* p) { return _mm512_set1_epi32(p[0] | p[1] << 16); }
  static void step(Sum& s, Weights w, __m512i x) { s.v = _mm512_dpwssd_epi32(s.v, x, w); }
  static void flush(Sum&) {}
  static I16 total(const Sum& s) { return s; }
};

constexpr int kFloatPixels = 8, kFloatBlocks = 2, kQuadPixels = 4, kLargestDotCode = 255;

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
