// Element types and their conversion to the type the arithmetic is done in.
#pragma once

#include "common/portability.h"

#ifdef __CUDACC__
#include "common/cuda_compat.h"
#endif

namespace hast {

enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kFloat64 = 3 };

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// fp32 arithmetic for everything but double.
template <typename T>
struct ComputeOf {
  using Type = float;
};
template <>
struct ComputeOf<double> {
  using Type = double;
};
template <typename T>
using Compute = typename ComputeOf<T>::Type;

inline namespace HAST_BACKEND {

HAST_HOST_DEVICE float to_compute(float value) { return value; }
HAST_HOST_DEVICE double to_compute(double value) { return value; }
HAST_HOST_DEVICE float to_compute(BFloat16 value) {
  return float_of(static_cast<uint32_t>(value.bits) << 16);
}

// Without branches, so that a loop over it becomes SIMD code without F16C too. A normal number is
// rebiased by a product (which also maps inf and NaN to themselves); a subnormal one is assembled
// below 1/2 and shifted down by a subtraction, so no fp32 subnormal ever appears.
HAST_HOST_DEVICE float to_compute(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t word = static_cast<uint32_t>(value.bits) << 16;
  const uint32_t doubled = word + word;
  const uint32_t normal = bits_of(float_of((doubled >> 4) + (0xE0u << 23)) * 0x1p-112f);
  const uint32_t subnormal = bits_of(float_of((doubled >> 17) | (126u << 23)) - 0.5f);
  return float_of((word & 0x80000000u) | (doubled < (1u << 27) ? subnormal : normal));
#endif
}

// Round to nearest even; a NaN stays a NaN.
template <typename T>
struct FromCompute;

template <>
struct FromCompute<float> {
  static HAST_HOST_DEVICE float convert(float value) { return value; }
};

template <>
struct FromCompute<double> {
  static HAST_HOST_DEVICE double convert(double value) { return value; }
};

template <>
struct FromCompute<BFloat16> {
  static HAST_HOST_DEVICE BFloat16 convert(float value) {
#ifdef __CUDA_ARCH__
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return {static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded)};
#endif
  }
};

template <>
struct FromCompute<Half> {
  static HAST_HOST_DEVICE Half convert(float value) {
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(value))};
#else
    // Adding a power of two chosen from the exponent makes the fp32 adder round at the half's last
    // bit; the first product turns what is too large into inf.
    const uint32_t word = bits_of(value);
    const uint32_t doubled = word + word;
    uint32_t bias = doubled & 0xFF000000u;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    const float scaled = (float_of(word & 0x7FFFFFFFu) * 0x1p112f) * 0x1p-110f;
    const uint32_t rounded = bits_of(float_of((bias >> 1) + 0x07800000u) + scaled);
    const uint32_t magnitude = ((rounded >> 13) & 0x7C00u) + (rounded & 0x0FFFu);
    const uint32_t sign = (word >> 16) & 0x8000u;
    return {static_cast<uint16_t>(sign | (doubled > 0xFF000000u ? 0x7E00u : magnitude))};
#endif
  }
};

template <typename T>
HAST_HOST_DEVICE T from_compute(Compute<T> value) {
  return FromCompute<T>::convert(value);
}

// Calls visitor(T{}) with the element type of `dtype`. The codes were checked in the bindings.
template <typename Visitor>
const char* visit_dtype(DType dtype, const Visitor& visitor) {
  switch (dtype) {
    case DType::kFloat32:
      return visitor(float{});
    case DType::kFloat16:
      return visitor(Half{});
    case DType::kBFloat16:
      return visitor(BFloat16{});
    case DType::kFloat64:
      return visitor(double{});
  }
  return "unknown dtype";
}

// For the operations whose every operand is a statistic: float, or double beside double data.
template <typename Visitor>
const char* visit_compute_type(DType dtype, const Visitor& visitor) {
  return dtype == DType::kFloat64 ? visitor(double{}) : visitor(float{});
}

}  // namespace HAST_BACKEND
}  // namespace hast
