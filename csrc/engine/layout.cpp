// Where the values of an image lie: channels last, in blocks, with the border that windows reach.
#include <algorithm>

#include "engine/prepared.h"

namespace hast::engine {
namespace {

int64_t up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Channels that a pixel has room for: blocks are written whole, groups and parts of a
// concatenation from where they begin.
int64_t room(const Network& network, int64_t index) {
  const Value& value = network.values[static_cast<size_t>(index)];
  int64_t needed = up(value.channels, kBlock);
  bool floats_alone = !value.grid.quantized() && index == 0;
  for (const Step& step : network.steps) {
    const bool read = std::count(step.inputs.begin(), step.inputs.end(), index) > 0;
    if (read || step.residual == index)
      floats_alone &= step.op == Op::kConvolution && step.groups == 1 && step.residual != index;
    if (step.output != index) continue;
    if (step.op == Op::kConvolution && step.groups > 1) {
      const int64_t own = value.channels / step.groups;
      needed = std::max(needed, (step.groups - 1) * own + up(own, kBlock));
    }
    if (step.op == Op::kConcatenate) {
      const int64_t last = network.values[static_cast<size_t>(step.inputs.back())].channels;
      needed = std::max(needed, value.channels - last + up(last, kBlock));
    }
  }
  // Images that only convolutions read, one number a step: a row of a window is one run.
  return floats_alone ? value.channels : up(needed, kBlock);
}

}  // namespace

Plane Layout::plane(const Value& value, uint8_t* memory) const {
  Plane found;
  found.pixel = pixel;
  found.row = row;
  if (value.grid.quantized())
    found.codes = memory + first;
  else
    found.floats = reinterpret_cast<float*>(memory + first);
  return found;
}

std::vector<Layout> lay_out(const Network& network, int64_t* bytes) {
  std::vector<Layout> layouts(network.values.size());
  for (const Step& step : network.steps) {
    if (step.op != Op::kConvolution) continue;
    Layout& in = layouts[static_cast<size_t>(step.inputs[0])];
    in.top = std::max(in.top, step.padding[0]);
    in.left = std::max(in.left, step.padding[1]);
    in.bottom = std::max(in.bottom, step.padding[2]);
    in.right = std::max(in.right, step.padding[3]);
  }
  int64_t end = 0;
  for (size_t i = 0; i < layouts.size(); ++i) {
    const Value& value = network.values[i];
    Layout& own = layouts[i];
    const int64_t element = value.grid.quantized() ? 1 : 4;
    own.pixel = room(network, static_cast<int64_t>(i));
    own.row = (own.left + value.width + own.right) * own.pixel;
    own.bytes = (own.top + value.height + own.bottom) * own.row * element;
    own.offset = end;
    own.first = end + (own.top * own.row + own.left * own.pixel) * element;
    end += up(own.bytes, 64);
  }
  *bytes = end;
  return layouts;
}

}  // namespace hast::engine
