// Depthwise products of 256 bits: four rows of a column at once, 32 channels.
//
// Unpacking works within halves of a register, so sum j has channels 4j.. and 16 + 4j.. of the 32.
#pragma once

#define HAST_ENGINE_QUADS

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

// [j][8 channels][4 rows]
struct Quad {
  __m256i v[4];
};
using QuadSum = Quad;

inline Quad quad(__m256i r0, __m256i r1, __m256i r2, __m256i r3) {
  const __m256i low01 = _mm256_unpacklo_epi8(r0, r1), high01 = _mm256_unpackhi_epi8(r0, r1);
  const __m256i low23 = _mm256_unpacklo_epi8(r2, r3), high23 = _mm256_unpackhi_epi8(r2, r3);
  return {{_mm256_unpacklo_epi16(low01, low23), _mm256_unpackhi_epi16(low01, low23),
           _mm256_unpacklo_epi16(high01, high23), _mm256_unpackhi_epi16(high01, high23)}};
}
inline QuadSum quad_zero() {
  const __m256i none = _mm256_setzero_si256();
  return {{none, none, none, none}};
}
inline void quad_step(QuadSum& s, const Quad& x, const int8_t* w) {
  for (int j = 0; j < 4; ++j) {
#ifdef __AVXVNNI__
    s.v[j] = _mm256_dpbusd_avx_epi32(s.v[j], x.v[j], load256(w + 32 * j));
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
    s.v[j] = _mm256_dpbusd_epi32(s.v[j], x.v[j], load256(w + 32 * j));
#else
    s.v[j] = _mm256_add_epi16(s.v[j], _mm256_maddubs_epi16(x.v[j], load256(w + 32 * j)));
#endif
  }
}
inline __m256i quad_wide(__m256i x) {
#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
  return x;
#else
  return _mm256_madd_epi16(x, _mm256_set1_epi16(1));
#endif
}

// The sums of both blocks of 16 channels.
inline void quad_blocks(const QuadSum& s, I16& first, I16& second) {
  __m256i w[4];
  for (int j = 0; j < 4; ++j) w[j] = quad_wide(s.v[j]);
  first = join(_mm256_permute2x128_si256(w[0], w[1], 0x20),
               _mm256_permute2x128_si256(w[2], w[3], 0x20));
  second = join(_mm256_permute2x128_si256(w[0], w[1], 0x31),
                _mm256_permute2x128_si256(w[2], w[3], 0x31));
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
