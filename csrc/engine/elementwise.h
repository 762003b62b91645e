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

// The part of a window of `kernel` places from `from` on that lies within a map of `size`.
struct Seen {
  int64_t begin, end;
};
inline Seen seen(int64_t from, int64_t dilation, int64_t kernel, int64_t size) {
  Seen found{0, kernel};  // of most windows, without a division
  if (from < 0) found.begin = (-from + dilation - 1) / dilation;
  if (from + (kernel - 1) * dilation >= size) found.end = (size - from + dilation - 1) / dilation;
  return found;
}

// Of a pixel's channels, at the places that a window sees.
template <typename F>
inline void each_seen(const Pool& d, const Seen& rows, const Seen& columns, int64_t first,
                      const F& f) {
  for (int64_t i = rows.begin; i < rows.end; ++i)
    for (int64_t j = columns.begin; j < columns.end; ++j)
      f(first + i * d.dilation_y * d.in.row + j * d.dilation_x * d.in.pixel);
}

// Codes of one grid: their order is that of what they stand for.
inline void largest_codes(const Pool& d, const Seen& rows, const Seen& columns, int64_t first,
                          uint8_t* to) {
  Codes16 largest = no_codes();
  each_seen(d, rows, columns, first,
            [&](int64_t place) { largest = larger(largest, codes16(d.in.codes + place)); });
  store(to, largest);
}

inline F16 pooled(const Pool& d, const Seen& rows, const Seen& columns, int64_t first) {
  F16 found = set1(d.average ? 0.0f : -std::numeric_limits<float>::infinity());
  each_seen(d, rows, columns, first, [&](int64_t place) {
    const F16 value = at(d.in, place);
    found = d.average ? add(found, value) : max(value, found);
  });
  if (!d.average) return found;
  const int64_t count = std::max<int64_t>(rows.end - rows.begin, 0) *
                        std::max<int64_t>(columns.end - columns.begin, 0);
  found = add(found, set1(-d.zero * static_cast<float>(count)));
  const int64_t all = d.count_padding ? d.kernel_y * d.kernel_x : std::max<int64_t>(count, 1);
  return mul(found, set1(1.0f / static_cast<float>(all)));
}

inline void pool(const Pool& d, const Share& share) {
  const Plane& out = d.finish.out;
  for (int64_t y = share.row_begin; y < share.row_end; ++y) {
    const int64_t top = y * d.stride_y - d.top;
    const Seen rows = seen(top, d.dilation_y, d.kernel_y, d.in_height);
    for (int64_t x = 0; x < d.width; ++x) {
      const int64_t left = x * d.stride_x - d.left;
      const Seen columns = seen(left, d.dilation_x, d.kernel_x, d.in_width);
      for (int64_t block = share.block_begin; block < share.block_end; ++block) {
        const int64_t channel = block * kBlock;
        const int64_t first = top * d.in.row + left * d.in.pixel + channel;
        if (d.in.codes && !d.average)
          largest_codes(d, rows, columns, first, out.codes + y * out.row + x * out.pixel + channel);
        else
          finish(d.finish, {pooled(d, rows, columns, first)}, channel, y, x);
      }
    }
  }
}

// Real numbers: the difference of two integers is exact.
inline F16 real(const Plane& plane, float step, float zero, int64_t place) {
  if (plane.floats) return load(plane.floats + place);
  return mul(add(load_codes(plane.codes + place), set1(-zero)), set1(step));
}

// kP pixels from column x on.
template <int kP>
inline void elements(const Elementwise& d, int64_t channel, int64_t y, int64_t x) {
  const Plane in = d.in, other = d.other;
  const bool two = other.codes || other.floats;
  F16 values[kP];
#pragma GCC unroll 4
  for (int p = 0; p < kP; ++p) {
    F16 value = real(in, d.in_step, d.in_zero, y * in.row + (x + p) * in.pixel + channel);
    if (two) {
      const F16 second =
          real(other, d.other_step, d.other_zero, y * other.row + (x + p) * other.pixel + channel);
      value = d.multiply ? mul(value, second) : add(value, second);
    }
    values[p] = value;
  }
  finish(d.finish, values, channel, y, x);
}

inline void elementwise(const Elementwise& d, const Share& share) {
  constexpr int kP = 4;
  for (int64_t y = share.row_begin; y < share.row_end; ++y)
    for (int64_t x = 0; x < d.width;) {
      const bool whole = x + kP <= d.width;
      for (int64_t block = share.block_begin; block < share.block_end; ++block)
        whole ? elements<kP>(d, block * kBlock, y, x) : elements<1>(d, block * kBlock, y, x);
      x += whole ? kP : 1;
    }
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
