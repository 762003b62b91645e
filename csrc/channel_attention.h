// Channel attention (Eq. 14): energy[n, c] = sum over space of x^2, and dx = 2*scale*coef[n, c]*x.
#pragma once

#include "common/dtype.h"

namespace hast {

struct AttentionMap {
  const void* map;          // [batch, channels, spatial], or [batch, spatial, channels]
  void* energy;             // fp[batch, channels]; forward only
  const void* coefficient;  // fp[batch, channels]; backward only
  void* gradient;           // like map; backward only
  int64_t batch, channels, spatial;
  bool channels_last;
};

struct ChannelAttentionArgs {
  const AttentionMap* maps;
  int64_t count;
  const void* scale;  // fp[1] on the device, or null for 1; backward only
  DType dtype;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* channel_attention(const ChannelAttentionArgs& args);
const char* channel_attention_backward(const ChannelAttentionArgs& args);

}  // namespace HAST_BACKEND
}  // namespace hast
