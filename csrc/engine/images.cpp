#include "engine/images.h"

namespace hast::engine {
namespace {

Plane entry(const Network& network, const Prepared& prepared, uint8_t* memory) {
  const size_t index = static_cast<size_t>(prepared.entry);
  return prepared.layouts[index].plane(network.values[index], memory);
}

}  // namespace

void FloatImages::rows(int64_t image, uint8_t* memory, int64_t begin, int64_t end) const {
  const Network& n = network_;
  const float* from = data_ + image * n.channels * n.height * n.width;
  if (prepared_.entry_ending)
    return prepared_.kernels->image(
        {from, n.channels, n.height, n.width, prepared_.entry_ending->at(memory, 0)}, begin, end);
  const Plane to = entry(n, prepared_, memory);
  for (int64_t y = begin; y < end; ++y)
    for (int64_t c = 0; c < n.channels; ++c) {
      const float* row = from + (c * n.height + y) * n.width;
      float* out = to.floats + y * to.row + c;
      for (int64_t x = 0; x < n.width; ++x) out[x * to.pixel] = row[x];
    }
}

PixelImages::PixelImages(const Network& network, const Prepared& prepared, const uint8_t* data)
    : network_(network),
      prepared_(prepared),
      data_(data),
      numbers_(static_cast<size_t>(network.channels) * 256) {
  for (size_t i = 0; i < numbers_.size(); ++i)
    numbers_[i] =
        (static_cast<float>(i % 256) / 255.0f - network.mean[i / 256]) / network.deviation[i / 256];
  if (!prepared.entry_ending) return;
  // The codes that the numbers have as an image of their own, one channel high.
  Image all{numbers_.data(), 1, network.channels, 256, prepared.entry_ending->at(nullptr, 0)};
  std::vector<uint8_t> apart(numbers_.size() * 4);
  all.finish.out = {apart.data(), nullptr, 4, 4 * 256};
  prepared.kernels->image(all, 0, network.channels);
  for (size_t i = 0; i < numbers_.size(); ++i) codes_.push_back(apart[4 * i]);
}

template <typename T>
void PixelImages::look_up(const std::vector<T>& table, const uint8_t* from, T* to,
                          const Plane& plane, int64_t begin, int64_t end) const {
  const Network& n = network_;
  for (int64_t y = begin; y < end; ++y)
    for (int64_t x = 0; x < n.width; ++x)
      for (int64_t c = 0; c < n.channels; ++c)
        to[y * plane.row + x * plane.pixel + c] =
            table[static_cast<size_t>(c * 256 + from[(y * n.width + x) * n.channels + c])];
}

void PixelImages::rows(int64_t image, uint8_t* memory, int64_t begin, int64_t end) const {
  const uint8_t* from = data_ + image * network_.channels * network_.height * network_.width;
  const Plane to = entry(network_, prepared_, memory);
  if (to.codes)
    look_up(codes_, from, to.codes, to, begin, end);
  else
    look_up(numbers_, from, to.floats, to, begin, end);
}

}  // namespace hast::engine
