// Convolution of every channel by itself.
#pragma once

#include <algorithm>

#include "engine/finish.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

// Any window; sums in float, which are whole numbers below 2^24 for codes.
inline void plain_row(const Depthwise& d, int64_t block, int64_t y) {
  const int64_t channel = block * kBlock;
  for (int64_t x = 0; x < d.width; ++x) {
    F16 sum = set1(0.0f);
    const float* w = d.plain + channel;
    for (int64_t i = 0; i < d.kernel_y; ++i)
      for (int64_t j = 0; j < d.kernel_x; ++j, w += d.channels) {
        const int64_t at = (y * d.stride_y + i * d.dilation_y) * d.in.row +
                           (x * d.stride_x + j * d.dilation_x) * d.in.pixel + channel;
        const F16 input = d.in.codes ? load_codes(d.in.codes + at) : load(d.in.floats + at);
        sum = fma(input, load(w), sum);
      }
    finish(d.finish, {sum}, channel, y, x);
  }
}

#ifdef HAST_ENGINE_QUADS

// kP outputs of one row that share the columns they both see; kK by kK windows, kK <= 8.
template <int kK, int kS, int kP>
inline void quads_tile(const Depthwise& d, int64_t unit, int64_t y, int64_t x, int64_t blocks) {
  constexpr int kQuads = (kK + 3) / 4;
  constexpr int kColumns = (kP - 1) * kS + kK;
  const uint8_t* in = d.in.codes + y * d.stride_y * d.in.row + x * kS * d.in.pixel + unit * 32;
  const int8_t* w = d.quads + unit * kK * kQuads * 128;
  QuadSum sums[kP];
  for (auto& sum : sums) sum = quad_zero();
  const __m256i none = _mm256_setzero_si256();
#pragma GCC unroll 12
  for (int column = 0; column < kColumns; ++column) {
#pragma GCC unroll 2
    for (int q = 0; q < kQuads; ++q) {
      const uint8_t* from = in + column * d.in.pixel + 4 * q * d.in.row;
      auto row = [&](int i) { return 4 * q + i < kK ? load256(from + i * d.in.row) : none; };
      const Quad seen = quad(row(0), row(1), row(2), row(3));
#pragma GCC unroll 8
      for (int p = 0; p < kP; ++p) {
        const int j = column - p * kS;
        if (j >= 0 && j < kK) quad_step(sums[p], seen, w + (j * kQuads + q) * 128);
      }
    }
  }
  I16 both[2][kP];
  for (int p = 0; p < kP; ++p) quad_blocks(sums[p], both[0][p], both[1][p]);
  for (int64_t b = 0; b < blocks; ++b)
    finish_whole(d.finish, both[b], unit * 32 + b * kBlock, y, x);
}

template <int kK, int kS>
inline void quads_row(const Depthwise& d, int64_t unit, int64_t y, int64_t blocks) {
  int64_t x = 0;
  for (; x + kQuadPixels <= d.width; x += kQuadPixels)
    quads_tile<kK, kS, kQuadPixels>(d, unit, y, x, blocks);
  for (; x < d.width; ++x) quads_tile<kK, kS, 1>(d, unit, y, x, blocks);
}

using QuadsRow = void (*)(const Depthwise&, int64_t unit, int64_t y, int64_t blocks);

inline QuadsRow quads_for(int64_t kernel_y, int64_t kernel_x, int64_t stride_x) {
  if (kernel_y != kernel_x) return nullptr;
  if (kernel_y == 3 && stride_x == 1) return quads_row<3, 1>;
  if (kernel_y == 3 && stride_x == 2) return quads_row<3, 2>;
  if (kernel_y == 5 && stride_x == 1) return quads_row<5, 1>;
  if (kernel_y == 5 && stride_x == 2) return quads_row<5, 2>;
  return nullptr;
}

#endif

inline bool has_quads(int64_t kernel_y, int64_t kernel_x, int64_t stride_x) {
#ifdef HAST_ENGINE_QUADS
  return quads_for(kernel_y, kernel_x, stride_x) != nullptr;
#else
  (void)kernel_y, (void)kernel_x, (void)stride_x;
  return false;
#endif
}

inline void depthwise(const Depthwise& d, const Share& share) {
#ifdef HAST_ENGINE_QUADS
  if (d.quads) {
    const QuadsRow row = quads_for(d.kernel_y, d.kernel_x, d.stride_x);
    for (int64_t y = share.row_begin; y < share.row_end; ++y)
      for (int64_t block = share.block_begin; block < share.block_end; block += 2)
        row(d, block / 2, y, std::min<int64_t>(2, share.block_end - block));
    return;
  }
#endif
  for (int64_t y = share.row_begin; y < share.row_end; ++y)
    for (int64_t block = share.block_begin; block < share.block_end; ++block)
      plain_row(d, block, y);
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
