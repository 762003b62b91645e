// The kernels of one instruction set; compiled once for each, HAST_ENGINE_ISA names it.
#include "engine/kernels.h"

#if defined(__AVX512VNNI__)
#include "engine/simd_avx512.h"
#elif defined(__AVX2__)
#include "engine/simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "engine/simd_neon.h"
#else
#include "engine/simd_portable.h"
#endif
#ifdef __AVX2__
#include "engine/quads.h"
#endif
#include "engine/dense.h"
#include "engine/depthwise.h"
#include "engine/elementwise.h"
#include "engine/image.h"

#define HAST_ENGINE_TEXT(x) #x
#define HAST_ENGINE_NAME(x) HAST_ENGINE_TEXT(x)

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {
namespace {

void dense_codes(Product product, const Dense& d, const Share& share) {
  switch (product) {
    case Product::kDot:
#ifdef HAST_ENGINE_DOT
      return dense_codes_by<Dot>(d, share);
#else
      break;
#endif
    case Product::kPairs:
#ifdef HAST_ENGINE_PAIRS
      return d.flush ? dense_codes_by<Pairs<true>>(d, share)
                     : dense_codes_by<Pairs<false>>(d, share);
#else
      break;
#endif
    case Product::kWide:
      break;
  }
  dense_codes_by<Wide>(d, share);
}

}  // namespace

#ifdef HAST_ENGINE_DOT
constexpr bool kHasDot = true;
#else
constexpr bool kHasDot = false;
#endif
#ifdef HAST_ENGINE_PAIRS
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

const Kernels& kernels() {
  static const Kernels table{HAST_ENGINE_NAME(HAST_ENGINE_ISA),
                             kHasDot,
                             kHasPairs,
                             kLargestDotCode,
                             dense_codes,
                             dense_floats,
                             has_quads,
                             depthwise,
                             image,
                             pool,
                             elementwise};
  return table;
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
