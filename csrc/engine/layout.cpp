// Where the values of an image lie: channels last, in blocks, with the border that windows reach.
#include <algorithm>
#include <cstring>

#include "engine/prepared.h"

namespace hast::engine {
namespace {

int64_t up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// Channels that a pixel has room for: blocks are written whole, groups and parts of a
// concatenation from where they begin.
int64_t room(const Network& network, int entry, int64_t index) {
  const Value& value = network.values[static_cast<size_t>(index)];
  int64_t needed = up(value.channels, kBlock);
  bool image_alone = index == entry;
  for (const Step& step : network.steps) {
    const bool read = std::count(step.inputs.begin(), step.inputs.end(), index) > 0;
    if (read || step.residual == index)
      image_alone &= step.op == Op::kConvolution && step.groups == 1 && step.residual != index;
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
  // An image that only convolutions read lies close: a row of a window is one run.
  return image_alone ? value.channels : up(needed, kBlock);
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

// What lies between the last pixel of a row and the first of the next one is one piece.
void Layout::fill_border(const Value& value, uint8_t* memory, int64_t begin, int64_t end) const {
  if (top + left + bottom + right == 0 || begin == end) return;
  const int zero = value.grid.quantized() ? value.grid.zero_point : 0;
  const int64_t element = value.grid.quantized() ? 1 : 4;
  auto fill = [&](int64_t from, int64_t to) {
    std::memset(memory + from, zero, static_cast<size_t>(to - from));
  };
  if (begin == 0) fill(offset, first);
  for (int64_t y = begin; y < end; ++y) {
    const bool last = y + 1 == value.height;
    fill(first + (y * row + value.width * pixel) * element,
         last ? offset + bytes : first + (y + 1) * row * element);
  }
}

int entry_of(const Network& network) {
  const Step* reader = nullptr;
  for (const Step& step : network.steps) {
    const bool reads = std::count(step.inputs.begin(), step.inputs.end(), 0) > 0;
    if (!reads && step.residual != 0) continue;
    if (reader) return 0;
    reader = &step;
  }
  if (!reader || reader->op != Op::kConvert) return 0;
  const bool clips =
      reader->activation == Activation::kNone || reader->activation == Activation::kClip;
  const bool codes = network.values[static_cast<size_t>(reader->output)].grid.quantized();
  return clips && codes ? reader->output : 0;
}

std::vector<Layout> lay_out(const Network& network, int entry, int64_t* bytes) {
  std::vector<Layout> layouts(network.values.size());
  for (const Step& step : network.steps) {
    if (step.op != Op::kConvolution) continue;
    Layout& in = layouts[static_cast<size_t>(step.inputs[0])];
    in.top = std::max(in.top, step.padding[0]);
    in.left = std::max(in.left, step.padding[1]);
    in.bottom = std::max(in.bottom, step.padding[2]);
    in.right = std::max(in.right, step.padding[3]);
  }
  for (size_t i = 0; i < layouts.size(); ++i) {
    const Value& value = network.values[i];
    Layout& own = layouts[i];
    const int64_t element = value.grid.quantized() ? 1 : 4;
    if (i == 0 && entry != 0) continue;
    own.pixel = room(network, entry, static_cast<int64_t>(i));
    own.row = (own.left + value.width + own.right) * own.pixel;
    own.bytes = (own.top + value.height + own.bottom) * own.row * element;
    own.first = (own.top * own.row + own.left * own.pixel) * element;
  }
  *bytes = share_memory(lives_of(network, entry), layouts);
  return layouts;
}

}  // namespace hast::engine
