#include "engine/read_window.h"

#include <string>

namespace hast::engine {

int64_t map_bytes(int64_t channels, int64_t height, int64_t width) {
  int64_t room = kMostBytes / 4;
  for (const int64_t size : {channels, height, width}) {
    if (size > room) return kMostBytes + 1;
    room /= size;
  }
  return 4 * channels * height * width;
}

void read_window(Fields& fields, const Value& in, const Value& out, bool dilated, Step& step) {
  fields.fill("kernel", step.kernel, 1, kLargestSize);
  fields.fill("stride", step.stride, 1, kLargestSize);
  if (dilated) fields.fill("dilation", step.dilation, 1, kLargestSize);
  fields.fill("padding", step.padding, 0, kLargestSize);
  const int64_t sizes[2] = {in.height, in.width};
  const int64_t given[2] = {out.height, out.width};
  int64_t padded[2];
  for (int axis = 0; axis < 2; ++axis) {
    const std::string what = axis == 0 ? " rows" : " columns";
    padded[axis] = sizes[axis] + step.padding[axis] + step.padding[axis + 2];
    const int64_t extent = step.dilation[axis] * (step.kernel[axis] - 1) + 1;
    if (extent > padded[axis]) {
      fields.fail("its kernel reaches over " + std::to_string(extent) + what +
                  ", its padded input has " + std::to_string(padded[axis]));
    }
    const int64_t made = (padded[axis] - extent) / step.stride[axis] + 1;
    if (made != given[axis]) {
      fields.fail("its output " + quoted(out.name) + " has " + std::to_string(given[axis]) + what +
                  ", its window makes " + std::to_string(made) + " of " +
                  std::to_string(sizes[axis]));
    }
  }
  if (map_bytes(in.channels, padded[0], padded[1]) > kMostBytes) {
    fields.fail("its padded input takes more than 4 GiB");
  }
}

void need_elements(const Fields& fields, const Value& in, const Value& out, const Step& step) {
  const int64_t sizes[2] = {in.height, in.width};
  const int64_t counts[2] = {out.height, out.width};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t stride = step.stride[axis], dilation = step.dilation[axis];
    bool all = (counts[axis] - 1) * stride - step.padding[axis] < sizes[axis];
    for (int64_t i = 0; all && i < counts[axis]; ++i) {
      const int64_t start = i * stride - step.padding[axis];
      if (start >= 0) break;
      const int64_t tap = (-start + dilation - 1) / dilation;  // the first not before the input
      all = tap < step.kernel[axis] && start + tap * dilation < sizes[axis];
    }
    if (!all) fields.fail("one of its windows has nothing but padding");
  }
}

}  // namespace hast::engine
