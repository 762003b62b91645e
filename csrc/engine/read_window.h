// What several kinds of steps have: an activation, and the window of convolutions and pools.
#pragma once

#include <cstdint>

#include "engine/fields.h"
#include "engine/network.h"

namespace hast::engine {

// A size, a window's number, an offset: sums of a few and products of two are int64.
constexpr int64_t kLargestSize = int64_t{1} << 30;
// Bytes of float32 that one image's map takes, padded or not, and all its maps together.
constexpr int64_t kMostBytes = int64_t{1} << 32;

// Bytes of so many float32; kMostBytes + 1 where it is more than kMostBytes. Sizes are from 1 to
// 3 * kLargestSize.
int64_t map_bytes(int64_t channels, int64_t height, int64_t width);

// a and b: where an activation does not have them, they are null or not there.
void read_activation(Fields& step_fields, Step& step);

// Kernel, stride, dilation (if it may have one) and padding, which make `out` of `in`.
void read_window(Fields& fields, const Value& in, const Value& out, bool dilated, Step& step);

// Every window of a pool has an element that is no padding: of none there is no maximum.
void need_elements(const Fields& fields, const Value& in, const Value& out, const Step& step);

}  // namespace hast::engine
