// CUDA kernel of batch_norm_match (batch_norm_match.h): x (and the residual) read once, y written
// once, statistics finished in the same launch; 8 bytes per fp32 element, 4 without y.
#include "batch_norm_match.h"

#include "common/cuda_channel_sums.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T>
struct ForwardBody {
  using Element = T;
  using F = Compute<T>;
  using Channel = AffineChannel<F>;
  struct Setup {};
  static constexpr int kBlocks = 4;
  BatchNormMatchArgs args;
  ActivationRange<F> act;

  __device__ Setup setup() const { return {}; }
  __device__ Channel channel(int64_t index) const { return affine_channel<F>(args, index); }
  __device__ bool sums() const { return true; }
  __device__ bool planes() const { return false; }
  __device__ const T* first_read() const { return static_cast<const T*>(args.x); }
  __device__ uint32_t* counters() const { return args.counters; }
  __device__ double* scratch() const { return args.scratch; }

  template <int kSize, int kChannels>
  __device__ void apply(int64_t offset, int64_t, const Setup&, const Channel (&channels)[kChannels],
                        F (&sum)[kChannels], F (&squares)[kChannels]) const {
    F values[kSize], residual[kSize];
    load_vector<kSize>(static_cast<const T*>(args.x) + offset, values);
    if (args.residual) load_vector<kSize>(static_cast<const T*>(args.residual) + offset, residual);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const int c = kChannels == 1 ? 0 : i;
      const F difference = values[i] - channels[c].shift;
      sum[c] += difference;
      squares[c] += difference * difference;
      values[i] = channels[c].scale * difference + channels[c].bias;
      if (args.residual) values[i] += residual[i];
      values[i] = act(values[i]);
    }
    if (args.y) store_vector_whole<kSize>(static_cast<T*>(args.y) + offset, values);
  }

  __device__ void finish(int64_t channel, double sum, double squares) const {
    finish_statistics<F>(args, channel, sum, squares);
  }
};

}  // namespace

int64_t batch_norm_match_scratch(int64_t outer, int64_t channels, int64_t inner) {
  if (outer * channels * inner == 0) return 0;
  return ChannelGrid(outer, channels, inner).scratch();
}

const char* batch_norm_match(const BatchNormMatchArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      const ForwardBody<T> body{args, activation_range<Compute<T>>(args.activation)};
      return launch_channel_sums(
          body, ChannelGrid(args.outer, args.channels, args.inner),
          aligned(args.x, 16) && aligned(args.residual, 16) && aligned(args.y, 16), args.stream);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
