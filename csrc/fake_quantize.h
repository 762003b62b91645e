// Asymmetric fake quantization with given ranges (Eq. 1-2), and the formula that every kernel
// shares.
//
//   S = (2^bits - 1) / max(upper - lower, 1e-8)      z = round(S * lower) + 2^(bits-1)
//   q = clamp(round(S * act(x) - z), -2^(bits-1), 2^(bits-1) - 1)      y = (q + z) / S
//
// `real_zero_point` leaves out the rounding of z. Results are bit-equal to the same formula written
// with eager fp32 tensor operations (half types: computed in fp32 and rounded once).
#pragma once

#include "common/activation.h"
#include "common/dtype.h"

namespace hast {

struct FakeQuantizeArgs {
  const void* x;
  void* y;
  const void* lower;  // fp[channels]
  const void* upper;  // fp[channels]
  DType dtype;
  int64_t outer, channels, inner;  // x and y are [outer, channels, inner]
  int bits;
  bool real_zero_point;
  Activation activation;
  int device;
  void* stream;
};

struct FakeQuantizeBackwardArgs {
  const void* x;
  const void* dy;
  void* dx;
  const void* lower;
  const void* upper;
  DType dtype;
  int64_t outer, channels, inner;
  int bits;
  bool real_zero_point;
  Activation activation;
  bool clipped;  // also stop the gradient where the code was clamped
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* fake_quantize(const FakeQuantizeArgs& args);
const char* fake_quantize_backward(const FakeQuantizeBackwardArgs& args);

template <typename F>
struct Quantizer {
  F scale, zero;
  F low, high;                    // bounds of S*x - z; with the activation folded in when `regular`
  F reciprocal, reciprocal_rest;  // 1/S to twice the precision
  bool regular;
};

// Every step below is monotone in x, rounding included, so an activation that clamps x clamps
// S*x - z as well, and rounding to an integer can follow the clamp: two bounds replace the
// activation and rint. That holds while S is positive and z finite; `regular` says so, with
// margins that also keep every step of dequantize() clear of overflow and underflow (a nonzero
// q + z is at least 2^-24, hence no residual below 2^-110). Outside, quantize_exact() follows the
// definition step by step.
template <typename F>
HAST_HOST_DEVICE Quantizer<F> make_quantizer(F lower, F upper, int bits, bool real_zero_point,
                                             Activation activation) {
  const F half = static_cast<F>(1 << (bits - 1));
  const F range = sub_rn(upper, lower);
  const F smallest = static_cast<F>(1e-8);
  Quantizer<F> quantizer;
  // Eager code computes scalar / tensor as reciprocal times scalar: one more rounding.
  const F scale = mul_rn(F(1) / (range < smallest ? smallest : range), half + half - F(1));
  F zero = mul_rn(scale, lower);
  if (!real_zero_point) zero = round_half_even(zero);
  zero = add_rn(zero, half);
  quantizer.scale = scale;
  quantizer.zero = zero;
  quantizer.low = -half;
  quantizer.high = half - F(1);
  quantizer.reciprocal = F(1) / scale;
  quantizer.reciprocal_rest =
      fused_multiply_add(-scale, quantizer.reciprocal, F(1)) * quantizer.reciprocal;
  const F limit = static_cast<F>(0x1p60);
  quantizer.regular = scale >= static_cast<F>(0x1p-60) && scale <= limit && absolute(zero) <= limit;
  if (quantizer.regular && activation != Activation::kNone) {
    const F low = quantizer.low, high = quantizer.high;
    quantizer.low = clamp_keep_nan(-zero, low, high);
    if (activation == Activation::kRelu6) {
      quantizer.high = clamp_keep_nan(sub_rn(mul_rn(scale, F(6)), zero), low, high);
    }
  }
  return quantizer;
}

// Adding and subtracting 1.5 * 2^(mantissa bits) rounds half to even for small arguments, here at
// most 2^7: two additions instead of a rounding instruction that old ISAs lack and GPUs run slowly.
HAST_HOST_DEVICE float round_small(float value) {
  return sub_rn(add_rn(value, 0x1.8p23f), 0x1.8p23f);
}
HAST_HOST_DEVICE double round_small(double value) {
  return sub_rn(add_rn(value, 0x1.8p52), 0x1.8p52);
}

// q + z of a regular quantizer.
template <typename F>
HAST_HOST_DEVICE F shifted_code(const Quantizer<F>& quantizer, F x) {
  const F position = sub_rn(mul_rn(quantizer.scale, x), quantizer.zero);
  return add_rn(round_small(clamp_keep_nan(position, quantizer.low, quantizer.high)),
                quantizer.zero);
}

// The correctly rounded (q + z) / S of a regular quantizer without a division: the two-part
// reciprocal gives a quotient within one unit in the last place, its exact residual times the
// correctly rounded reciprocal rounds it correctly (Markstein's theorem).
template <typename F>
HAST_HOST_DEVICE F dequantize(const Quantizer<F>& quantizer, F code) {
  const F quotient =
      fused_multiply_add(code, quantizer.reciprocal, mul_rn(code, quantizer.reciprocal_rest));
  const F residual = fused_multiply_add(-quantizer.scale, quotient, code);
  return fused_multiply_add(residual, quantizer.reciprocal, quotient);
}

// The same value in the cheapest way of this build: five operations with a fused multiply-add, else
// the division, which is several times slower.
template <typename F>
HAST_HOST_DEVICE F quotient(const Quantizer<F>& quantizer, F code) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return dequantize(quantizer, code);
#else
  return code / quantizer.scale;
#endif
}

// The definition, for any range, finite or not.
template <typename F>
HAST_HOST_DEVICE F quantize_exact(const Quantizer<F>& quantizer, F x, Activation activation) {
  const F value = quantizer.regular ? x : activation_range<F>(activation)(x);
  return shifted_code(quantizer, value) / quantizer.scale;
}

// Whether the rounded code before the clamp is a valid one: a tie at the lower end rounds to the
// even -2^(bits-1), one at the upper end to 2^(bits-1), which is one too many.
template <typename F>
HAST_HOST_DEVICE bool code_in_range(const Quantizer<F>& quantizer, F x, F half) {
  const F position = sub_rn(mul_rn(quantizer.scale, x), quantizer.zero);
  return position >= -half - F(0.5) && position < half - F(0.5);
}

}  // namespace HAST_BACKEND
}  // namespace hast
