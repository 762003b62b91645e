// Pools, and one or two maps element by element.
#pragma once

#include <algorithm>
#include <limits>

#include "engine/finish.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

inline F16 at(const Plane& plane, int64_t place) {
  return plane.codes ? load_codes(plane.codes + place) : load(plane.floats + place);
}

inline F16 pooled(const Pool& d, int64_t channel, int64_t y, int64_t x) {
  const int64_t top = y * d.stride_y - d.top, left = x * d.stride_x - d.left;
  F16 found = set1(d.average ? 0.0f : -std::numeric_limits<float>::infinity());
  int64_t count = 0;
  for (int64_t i = 0; i < d.kernel_y; ++i) {
    const int64_t row = top + i * d.dilation_y;
    if (row < 0 || row >= d.in_height) continue;
    for (int64_t j = 0; j < d.kernel_x; ++j) {
      const int64_t column = left + j * d.dilation_x;
      if (column < 0 || column >= d.in_width) continue;
      const F16 value = at(d.in, row * d.in.row + column * d.in.pixel + channel);
      found = d.average ? add(found, value) : max(value, found);
      ++count;
    }
  }
  if (!d.average) return found;
  found = add(found, set1(-d.zero * static_cast<float>(count)));
  const int64_t all = d.count_padding ? d.kernel_y * d.kernel_x : std::max<int64_t>(count, 1);
  return mul(found, set1(1.0f / static_cast<float>(all)));
}

inline void pool(const Pool& d, const Share& share) {
  for (int64_t y = share.row_begin; y < share.row_end; ++y)
    for (int64_t x = 0; x < d.width; ++x)
      for (int64_t block = share.block_begin; block < share.block_end; ++block)
        finish(d.finish, {pooled(d, block * kBlock, y, x)}, block * kBlock, y, x);
}

// Real numbers: the difference of two integers is exact.
inline F16 real(const Plane& plane, float step, float zero, int64_t place) {
  if (plane.floats) return load(plane.floats + place);
  return mul(add(load_codes(plane.codes + place), set1(-zero)), set1(step));
}

inline void elementwise(const Elementwise& d, const Share& share) {
  const bool two = d.other.codes || d.other.floats;
  for (int64_t y = share.row_begin; y < share.row_end; ++y)
    for (int64_t x = 0; x < d.width; ++x)
      for (int64_t block = share.block_begin; block < share.block_end; ++block) {
        const int64_t channel = block * kBlock;
        F16 value = real(d.in, d.in_step, d.in_zero, y * d.in.row + x * d.in.pixel + channel);
        if (two) {
          const F16 other = real(d.other, d.other_step, d.other_zero,
                                 y * d.other.row + x * d.other.pixel + channel);
          value = d.multiply ? mul(value, other) : add(value, other);
        }
        finish(d.finish, {value}, channel, y, x);
      }
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
