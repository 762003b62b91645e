// Codes of an image, channels to be last.
#pragma once

#include <algorithm>
#include <cstring>

#include "engine/finish.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

// Sixteen pixels at a time; rows end where the caller's memory may end.
inline void image(const Image& d, int64_t row_begin, int64_t row_end) {
  const F16 scale = set1(*d.finish.scale), bias = set1(*d.finish.bias);
  const F16 low = set1(d.finish.low), high = set1(d.finish.high);
  const Plane& to = d.finish.out;
  constexpr int64_t kTogether = 4;  // channels that are stored as one piece
  for (int64_t y = row_begin; y < row_end; ++y)
    for (int64_t x = 0; x < d.width; x += 16)
      for (int64_t c = 0; c < d.channels; c += kTogether) {
        const int64_t pixels = std::min<int64_t>(16, d.width - x);
        uint8_t codes[kTogether][16] = {};
        for (int64_t i = 0; i < std::min(kTogether, d.channels - c); ++i) {
          const float* from = d.planes + ((c + i) * d.height + y) * d.width + x;
          float rest[16] = {};
          if (pixels < 16) {
            std::copy(from, from + pixels, rest);
            from = rest;
          }
          store_codes(codes[i], min(max(fma(load(from), scale, bias), low), high));
        }
        uint8_t together[16 * kTogether];
        for (int p = 0; p < 16; ++p)
          for (int i = 0; i < kTogether; ++i) together[p * kTogether + i] = codes[i][p];
        uint8_t* out = to.codes + y * to.row + x * to.pixel + c;
        // What a piece has more than the pixel is overwritten by the next one, if one comes.
        const bool fits = c + kTogether <= to.pixel;
        const int64_t whole = fits ? pixels : c == 0 ? pixels - 1 : 0;
        for (int64_t p = 0; p < whole; ++p)
          std::memcpy(out + p * to.pixel, together + p * kTogether, kTogether);
        for (int64_t p = whole; p < pixels; ++p)
          std::copy_n(together + p * kTogether, std::min(kTogether, d.channels - c),
                      out + p * to.pixel);
      }
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
