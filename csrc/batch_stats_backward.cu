// CUDA kernel of batch_norm_match_backward (batch_stats.h): x, y and dy read once each where they
// are needed, dx and dresidual written once; the affine gradients are finished in the same launch.
#include "batch_stats.h"

#include "common/cuda_channel_sums.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T>
struct BackwardBody {
  using Element = T;
  using F = Compute<T>;
  using Channel = GradientChannel<F>;
  BatchNormMatchBackwardArgs args;
  F top;
  bool gated;    // y decides where dy passes
  bool reads_x;  // x enters a result

  __device__ Channel channel(int64_t index) const { return gradient_channel<F>(args, index); }
  __device__ bool sums() const { return args.dweight != nullptr; }
  __device__ uint32_t* counters() const { return args.counters; }
  __device__ double* scratch() const { return args.scratch; }

  template <int kSize, int kChannels>
  __device__ void apply(int64_t offset, const Channel (&channels)[kChannels], F (&sum)[kChannels],
                        F (&product)[kChannels]) const {
    F x[kSize], y[kSize], g[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = g[i] = F(0);
    if (reads_x) load_vector<kSize>(static_cast<const T*>(args.x) + offset, x);
    if (args.dy) load_vector<kSize>(static_cast<const T*>(args.dy) + offset, g);
    if (gated) {
      load_vector<kSize>(static_cast<const T*>(args.y) + offset, y);
#pragma unroll
      for (int i = 0; i < kSize; ++i) g[i] = passes_gradient(y[i], top) ? g[i] : F(0);
    }
    if (args.dresidual) store_vector<kSize>(static_cast<T*>(args.dresidual) + offset, g);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Channel& channel = channels[kChannels == 1 ? 0 : i];
      sum[kChannels == 1 ? 0 : i] += g[i];
      product[kChannels == 1 ? 0 : i] += g[i] * (x[i] - channel.shift);
      // slope is 0 where x was not read
      g[i] = channel.scale * g[i] + channel.constant + channel.slope * (x[i] - channel.center);
    }
    if (args.dx) store_vector<kSize>(static_cast<T*>(args.dx) + offset, g);
  }

  __device__ void finish(int64_t channel, double sum, double product) const {
    finish_affine_gradient<F>(args, channel, sum, product);
  }
};

}  // namespace

const char* batch_norm_match_backward(const BatchNormMatchBackwardArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  if (!args.dx && !args.dresidual && !args.dweight) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      const BackwardBody<T> body{args, gradient_top<Compute<T>>(args.activation),
                                 args.activation != Activation::kNone && args.dy,
                                 args.dweight || (args.dx && args.dvar)};
      const void* y = body.gated ? args.y : nullptr;
      return launch_channel_sums(body, ChannelGrid(args.outer, args.channels, args.inner),
                                 aligned(args.x, 16) && aligned(y, 16) && aligned(args.dy, 16) &&
                                     aligned(args.dx, 16) && aligned(args.dresidual, 16),
                                 args.stream);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
