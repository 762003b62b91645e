// Images as callers have them, on their way into a workspace.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/prepared.h"

namespace hast::engine {

// Normalised images [C, H, W].
class FloatImages {
 public:
  FloatImages(const Network& network, const Prepared& prepared, const float* data)
      : network_(network), prepared_(prepared), data_(data) {}
  // Rows of one image, channels last, as the value that the network begins with.
  void rows(int64_t image, uint8_t* memory, int64_t begin, int64_t end) const;

 private:
  const Network& network_;
  const Prepared& prepared_;
  const float* data_;
};

// Pixels [H, W, C], to be normalised: one of 256 numbers or codes for each channel.
class PixelImages {
 public:
  PixelImages(const Network& network, const Prepared& prepared, const uint8_t* data);
  void rows(int64_t image, uint8_t* memory, int64_t begin, int64_t end) const;

 private:
  template <typename T>
  void look_up(const std::vector<T>& table, const uint8_t* from, T* to, const Plane& plane,
               int64_t begin, int64_t end) const;

  const Network& network_;
  const Prepared& prepared_;
  const uint8_t* data_;
  std::vector<float> numbers_;  // [C, 256]
  std::vector<uint8_t> codes_;  // the same
};

}  // namespace hast::engine
