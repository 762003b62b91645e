// Sixteen channels in four registers of 128 bits, products by the dot product instructions.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

struct F16 {
  float32x4_t v[4];
};
struct I16 {
  int32x4_t v[4];
};

template <typename F>
inline F16 each(const F& f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline F16 set1(float x) {
  return each([x](int) { return vdupq_n_f32(x); });
}
inline F16 load(const float* p) {
  return each([p](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, const F16& x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F16 fma(const F16& a, const F16& b, const F16& c) {
  return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F16 add(const F16& a, const F16& b) {
  return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F16 mul(const F16& a, const F16& b) {
  return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
// b where a is not a number
inline F16 max(const F16& a, const F16& b) {
  return each([&](int i) { return vmaxnmq_f32(a.v[i], b.v[i]); });
}
inline F16 min(const F16& a, const F16& b) {
  return each([&](int i) { return vminnmq_f32(a.v[i], b.v[i]); });
}
inline F16 to_float(const I16& x) {
  return each([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline F16 load_codes(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
           vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))}};
}
// Rounded to nearest even; within 0 to 255.
inline void store_codes(uint8_t* p, const F16& x) {
  const uint16x8_t low =
      vcombine_u16(vqmovn_u32(vcvtnq_u32_f32(x.v[0])), vqmovn_u32(vcvtnq_u32_f32(x.v[1])));
  const uint16x8_t high =
      vcombine_u16(vqmovn_u32(vcvtnq_u32_f32(x.v[2])), vqmovn_u32(vcvtnq_u32_f32(x.v[3])));
  vst1q_u8(p, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
}

// Sixteen codes as they are.
struct Codes16 {
  uint8x16_t v;
};
inline Codes16 no_codes() { return {vdupq_n_u8(0)}; }
inline Codes16 codes16(const uint8_t* p) { return {vld1q_u8(p)}; }
inline Codes16 larger(Codes16 a, Codes16 b) { return {vmaxq_u8(a.v, b.v)}; }
inline void store(uint8_t* p, Codes16 x) { vst1q_u8(p, x.v); }

// The same sixteen channels in double.
struct D16 {
  float64x2_t v[8];
};
template <typename F>
inline D16 doubles(const F& f) {
  return {{f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)}};
}
inline D16 set1(double x) {
  return doubles([x](int) { return vdupq_n_f64(x); });
}
inline D16 load(const double* p) {
  return doubles([p](int i) { return vld1q_f64(p + 2 * i); });
}
inline D16 fma(const D16& a, const D16& b, const D16& c) {
  return doubles([&](int i) { return vfmaq_f64(c.v[i], a.v[i], b.v[i]); });
}
inline D16 max(const D16& a, const D16& b) {
  return doubles([&](int i) { return vmaxnmq_f64(a.v[i], b.v[i]); });
}
inline D16 min(const D16& a, const D16& b) {
  return doubles([&](int i) { return vminnmq_f64(a.v[i], b.v[i]); });
}
inline D16 to_double(const I16& x) {
  return doubles([&](int i) {
    const int32x4_t part = x.v[i / 2];
    return vcvtq_f64_s64(vmovl_s32(i % 2 ? vget_high_s32(part) : vget_low_s32(part)));
  });
}
inline D16 doubles_of_codes(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return to_double(I16{{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                        vreinterpretq_s32_u32(vmovl_high_u16(low)),
                        vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                        vreinterpretq_s32_u32(vmovl_high_u16(high))}});
}
inline D16 doubles_of_floats(const float* p) {
  return doubles([p](int i) { return vcvt_f64_f32(vld1_f32(p + 2 * i)); });
}
inline void store_codes(uint8_t* p, const D16& x) {
  for (int i = 0; i < 8; ++i) {
    const int64x2_t codes = vcvtnq_s64_f64(x.v[i]);
    p[2 * i] = static_cast<uint8_t>(vgetq_lane_s64(codes, 0));
    p[2 * i + 1] = static_cast<uint8_t>(vgetq_lane_s64(codes, 1));
  }
}

// Codes up to 127 are the same number with and without a sign.
struct Dot {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 4, kBlocks = 1, kBytes = 4;
  using Weight = int8_t;
  using Sum = I16;
  struct Weights {
    int8x16_t v[4];
  };
  static Sum zero() {
    const int32x4_t none = vdupq_n_s32(0);
    return {{none, none, none, none}};
  }
  static Weights weights(const int8_t* p) {
    return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}};
  }
  static int8x16_t input(const uint8_t* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(x));
  }
  static void step(Sum& s, const Weights& w, int8x16_t x) {
    for (int i = 0; i < 4; ++i) s.v[i] = vdotq_s32(s.v[i], w.v[i], x);
  }
  static void flush(Sum&) {}
  static const I16& total(const Sum& s) { return s; }
};
#define HAST_ENGINE_DOT

// 16-bit weights, 2 inputs a step: [16][2], even and odd inputs apart as they are loaded.
struct Wide {
  static constexpr bool kWidens = false;
  static constexpr int kPixels = 2, kBlocks = 1, kBytes = 2;
  using Weight = int16_t;
  using Sum = I16;
  struct Weights {
    int16x8x2_t v[2];
  };
  struct Input {
    int16_t v[2];
  };
  static Sum zero() { return Dot::zero(); }
  static Weights weights(const int16_t* p) { return {{vld2q_s16(p), vld2q_s16(p + 16)}}; }
  static Input input(const uint8_t* p) { return {{p[0], p[1]}}; }
  static void step(Sum& s, const Weights& w, const Input& x) {
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 2; ++i) {
        int32x4_t& low = s.v[2 * half];
        int32x4_t& high = s.v[2 * half + 1];
        low = vmlal_n_s16(low, vget_low_s16(w.v[half].val[i]), x.v[i]);
        high = vmlal_high_n_s16(high, w.v[half].val[i], x.v[i]);
      }
  }
  static void flush(Sum&) {}
  static const I16& total(const Sum& s) { return s; }
};

constexpr int kFloatPixels = 4, kFloatBlocks = 1, kLargestDotCode = 127;

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
