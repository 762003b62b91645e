// What lets one formula serve the CPU kernels, the CUDA kernels and the host compiler alike.
//
// Everything with code in it lives in `hast::HAST_BACKEND`, an inline namespace named by the build
// (cpu_baseline, cpu_avx2, cuda). A header compiled with -mavx2 and without it would otherwise give
// two different definitions of one inline function, and the linker may keep the wrong one.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef HAST_BACKEND
#error "HAST_BACKEND must name the inline namespace of this build, see CMakeLists.txt"
#endif

#ifdef __CUDACC__
#define HAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HAST_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace hast {
inline namespace HAST_BACKEND {

HAST_HOST_DEVICE uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

HAST_HOST_DEVICE float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Products and sums that no compiler may contract to a fused multiply-add: eager tensor code rounds
// after every operation, and a bit-equal kernel has to do the same. The host is compiled with
// -ffp-contract=off; on the device only code that goes through these is exempt from contraction.
#ifdef __CUDA_ARCH__
HAST_HOST_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
HAST_HOST_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
HAST_HOST_DEVICE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
HAST_HOST_DEVICE double mul_rn(double a, double b) { return __dmul_rn(a, b); }
HAST_HOST_DEVICE double add_rn(double a, double b) { return __dadd_rn(a, b); }
HAST_HOST_DEVICE double sub_rn(double a, double b) { return __dsub_rn(a, b); }
#else
HAST_HOST_DEVICE float mul_rn(float a, float b) { return a * b; }
HAST_HOST_DEVICE float add_rn(float a, float b) { return a + b; }
HAST_HOST_DEVICE float sub_rn(float a, float b) { return a - b; }
HAST_HOST_DEVICE double mul_rn(double a, double b) { return a * b; }
HAST_HOST_DEVICE double add_rn(double a, double b) { return a + b; }
HAST_HOST_DEVICE double sub_rn(double a, double b) { return a - b; }
#endif

// The C functions, not the std:: overloads: those are inline templates (see the top of this file).
HAST_HOST_DEVICE float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
HAST_HOST_DEVICE double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }
HAST_HOST_DEVICE float square_root(float value) { return sqrtf(value); }
HAST_HOST_DEVICE double square_root(double value) { return sqrt(value); }
HAST_HOST_DEVICE float round_half_even(float value) { return rintf(value); }
HAST_HOST_DEVICE double round_half_even(double value) { return rint(value); }
HAST_HOST_DEVICE float absolute(float value) { return fabsf(value); }
HAST_HOST_DEVICE double absolute(double value) { return fabs(value); }

HAST_HOST_DEVICE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HAST_HOST_DEVICE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HAST_HOST_DEVICE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Comparisons, not fmin/fmax: a NaN stays a NaN, as in torch.clamp.
template <typename F>
HAST_HOST_DEVICE F clamp_keep_nan(F value, F low, F high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

}  // namespace HAST_BACKEND
}  // namespace hast
