// Loads from any address, of processors of 256 bits and of 512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

inline int32_t load4(const uint8_t* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}
inline __m256i load256(const void* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Sixteen codes as they are.
struct Codes16 {
  __m128i v;
};
inline Codes16 no_codes() { return {_mm_setzero_si128()}; }
inline Codes16 codes16(const uint8_t* p) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
inline Codes16 larger(Codes16 a, Codes16 b) { return {_mm_max_epu8(a.v, b.v)}; }
inline void store(uint8_t* p, Codes16 x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x.v); }

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
