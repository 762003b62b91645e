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

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
