// Sixteen channels in registers of 256 bits; with AVX-VNNI the products too.
#pragma once

#include "engine/simd_x86.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

struct F16 {
  __m256 v[2];
};
struct I16 {
  __m256i v[2];
};

inline F16 set1(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
inline F16 load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
inline void store(float* p, F16 x) {
  _mm256_storeu_ps(p, x.v[0]);
  _mm256_storeu_ps(p + 8, x.v[1]);
}
inline F16 fma(F16 a, F16 b, F16 c) {
  return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
}
inline F16 add(F16 a, F16 b) {
  return {{_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])}};
}
inline F16 mul(F16 a, F16 b) {
  return {{_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])}};
}
// b where a is not a number
inline F16 max(F16 a, F16 b) {
  return {{_mm256_max_ps(a.v[0], b.v[0]), _mm256_max_ps(a.v[1], b.v[1])}};
}
inline F16 min(F16 a, F16 b) {
  return {{_mm256_min_ps(a.v[0], b.v[0]), _mm256_min_ps(a.v[1], b.v[1])}};
}
inline F16 to_float(I16 x) { return {{_mm256_cvtepi32_ps(x.v[0]), _mm256_cvtepi32_ps(x.v[1])}}; }
inline F16 load_codes(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {{_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
           _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))}};
}
// Rounded to nearest even; within 0 to 255.
inline void store_codes(uint8_t* p, F16 x) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1]));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

// The same sixteen channels in double.
struct D16 {
  __m256d v[4];
};
template <typename F>
inline D16 doubles(const F& f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline D16 set1(double x) {
  return doubles([x](int) { return _mm256_set1_pd(x); });
}
inline D16 load(const double* p) {
  return doubles([p](int i) { return _mm256_loadu_pd(p + 4 * i); });
}
inline D16 fma(const D16& a, const D16& b, const D16& c) {
  return doubles([&](int i) { return _mm256_fmadd_pd(a.v[i], b.v[i], c.v[i]); });
}
inline D16 max(const D16& a, const D16& b) {
  return doubles([&](int i) { return _mm256_max_pd(a.v[i], b.v[i]); });
}
inline D16 min(const D16& a, const D16& b) {
  return doubles([&](int i) { return _mm256_min_pd(a.v[i], b.v[i]); });
}
inline D16 to_double(const I16& x) {
  return {{_mm256_cvtepi32_pd(_mm256_castsi256_si128(x.v[0])),
           _mm256_cvtepi32_pd(_mm256_extracti128_si256(x.v[0], 1)),
           _mm256_cvtepi32_pd(_mm256_castsi256_si128(x.v[1])),
           _mm256_cvtepi32_pd(_mm256_extracti128_si256(x.v[1], 1))}};
}
inline D16 doubles_of_codes(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return to_double(
      I16{{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))}});
}
inline D16 doubles_of_floats(const float* p) {
  return doubles([p](int i) { return _mm256_cvtps_pd(_mm_loadu_ps(p + 4 * i)); });
}
inline void store_codes(uint8_t* p, const D16& x) {
  const __m128i low = _mm_packs_epi32(_mm256_cvtpd_epi32(x.v[0]), _mm256_cvtpd_epi32(x.v[1]));
  const __m128i high = _mm_packs_epi32(_mm256_cvtpd_epi32(x.v[2]), _mm256_cvtpd_epi32(x.v[3]));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(low, high));
}

// 2 products in 16 bits, widened every `flush` steps if kFlush.
template <bool kFlush>
struct Pairs {
  static constexpr bool kWidens = kFlush;
  static constexpr int kPixels = 4, kBlocks = 1, kBytes = 4;
  using Weight = int8_t;
  struct Sum {
    __m256i narrow[2], wide[2];
  };
  struct Weights {
    __m256i v[2];
  };
  static Sum zero() {
    const __m256i none = _mm256_setzero_si256();
    return {{none, none}, {none, none}};
  }
  static Weights weights(const int8_t* p) { return {{load256(p), load256(p + 32)}}; }
  static __m256i input(const uint8_t* p) { return _mm256_set1_epi32(load4(p)); }
  static void step(Sum& s, const Weights& w, __m256i x) {
    s.narrow[0] = _mm256_add_epi16(s.narrow[0], _mm256_maddubs_epi16(x, w.v[0]));
    s.narrow[1] = _mm256_add_epi16(s.narrow[1], _mm256_maddubs_epi16(x, w.v[1]));
  }
  static void flush(Sum& s) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 2; ++i) {
      s.wide[i] = _mm256_add_epi32(s.wide[i], _mm256_madd_epi16(s.narrow[i], ones));
      s.narrow[i] = _mm256_setzero_si256();
    }
  }
  static I16 total(const Sum& s) {
    if constexpr (kFlush) return {{s.wide[0], s.wide[1]}};
    const __m256i ones = _mm256_set1_epi16(1);
    return {{_mm256_madd_epi16(s.narrow[0], ones), _mm256_madd_epi16(s.narrow[1], ones)}};
  }
};

#define HAST_ENGINE_PAIRS

#ifdef __AVXVNNI__
struct Dot {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 6, kBlocks = 1, kBytes = 4;
  using Weight = int8_t;
  using Sum = I16;
  using Weights = I16;
  static Sum zero() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
  static Weights weights(const int8_t* p) { return {{load256(p), load256(p + 32)}}; }
  static __m256i input(const uint8_t* p) { return _mm256_set1_epi32(load4(p)); }
  static void step(Sum& s, const Weights& w, __m256i x) {
    s.v[0] = _mm256_dpbusd_avx_epi32(s.v[0], x, w.v[0]);
    s.v[1] = _mm256_dpbusd_avx_epi32(s.v[1], x, w.v[1]);
  }
  static void flush(Sum&) {}
  static I16 total(const Sum& s) { return s; }
};
#define HAST_ENGINE_DOT
#endif

// 16-bit weights, 2 inputs a step.
struct Wide {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 4, kBlocks = 1, kBytes = 2;
  using Weight = int16_t;
  using Sum = I16;
  using Weights = I16;
  static Sum zero() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
  static Weights weights(const int16_t* p) { return {{load256(p), load256(p + 16)}}; }
  static __m256i input(const uint8_t* p) { return _mm256_set1_epi32(p[0] | p[1] << 16); }
  static void step(Sum& s, const Weights& w, __m256i x) {
    s.v[0] = _mm256_add_epi32(s.v[0], _mm256_madd_epi16(x, w.v[0]));
    s.v[1] = _mm256_add_epi32(s.v[1], _mm256_madd_epi16(x, w.v[1]));
  }
  static void flush(Sum&) {}
  static I16 total(const Sum& s) { return s; }
};

constexpr int kFloatPixels = 4, kFloatBlocks = 1, kQuadPixels = 2, kLargestDotCode = 255;

inline I16 join(__m256i low, __m256i high) { return {{low, high}}; }

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
