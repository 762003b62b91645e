// CUDA kernel of batch_norm_backward.h: x, y or the residual, dy, dmap and the target read once
// each where they are needed, dx, dresidual and dtarget written once; the affine gradients are
// finished in the same launch.
#include "batch_norm_backward.h"

#include "common/cuda_channel_sums.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// kInner: the value before the activation is needed, for the gate or for the energy's gradient.
template <typename T, bool kInner>
struct BackwardBody {
  using Element = T;
  using F = Compute<T>;
  using Channel = GradientChannel<F>;
  using Setup = InputGate<F>;
  static constexpr int kBlocks = kInner ? 2 : 3;  // rows keep the state of four channels
  BatchNormBackwardArgs args;
  F top;
  bool reads_x;

  __device__ Setup setup() const { return kInner ? input_gate<F>(args) : Setup{}; }
  __device__ Channel channel(int64_t index) const { return gradient_channel<F>(args, index); }
  __device__ bool sums() const { return args.dweight != nullptr; }
  __device__ bool planes() const { return kInner && args.denergy != nullptr; }
  __device__ const T* first_read() const {
    return static_cast<const T*>(reads_x ? args.x : args.dy);
  }
  __device__ uint32_t* counters() const { return args.counters; }
  __device__ double* scratch() const { return args.scratch; }

  template <int kSize>
  __device__ void gate_by_output(int64_t offset, F (&g)[kSize]) const {
    F y[kSize];
    load_vector<kSize>(static_cast<const T*>(args.y) + offset, y);
#pragma unroll
    for (int i = 0; i < kSize; ++i) g[i] = passes_gradient(y[i], top) ? g[i] : F(0);
  }

  template <int kSize, int kChannels>
  __device__ void gate_by_input(int64_t offset, const F (&x)[kSize], const Setup& passes,
                                const Channel (&channels)[kChannels], F (&g)[kSize]) const {
    F residual[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) residual[i] = F(0);
    if (args.residual) load_vector<kSize>(static_cast<const T*>(args.residual) + offset, residual);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const F v = channels[kChannels == 1 ? 0 : i].affine(x[i]) + residual[i];
      g[i] = passes(v) ? g[i] : F(0);
    }
  }

  // g + 2*denergy*(u - target), and the second term's negative.
  template <int kSize, int kChannels>
  __device__ void add_energy(int64_t offset, int64_t plane, const F (&x)[kSize],
                             const Channel (&channels)[kChannels], F (&g)[kSize]) const {
    const F* denergy = static_cast<const F*>(args.denergy) + plane;
    F du[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) du[i] = F(0);
    if (args.target) load_vector<kSize>(static_cast<const T*>(args.target) + offset, du);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const int c = kChannels == 1 ? 0 : i;
      du[i] = F(2) * denergy[c] * (channels[c].affine(x[i]) - du[i]);
      g[i] += du[i];
      du[i] = -du[i];
    }
    if (args.dtarget) store_vector_whole<kSize>(static_cast<T*>(args.dtarget) + offset, du);
  }

  template <int kSize, int kChannels>
  __device__ void apply(int64_t offset, int64_t plane, const Setup& setup,
                        const Channel (&channels)[kChannels], F (&sum)[kChannels],
                        F (&product)[kChannels]) const {
    F x[kSize], g[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = g[i] = F(0);
    if (reads_x) load_vector<kSize>(static_cast<const T*>(args.x) + offset, x);
    if (args.dy) {
      load_vector<kSize>(static_cast<const T*>(args.dy) + offset, g);
      if (args.dy2) {
        F second[kSize];
        load_vector<kSize>(static_cast<const T*>(args.dy2) + offset, second);
#pragma unroll
        for (int i = 0; i < kSize; ++i) g[i] += second[i];
      }
      if (args.gate == Gate::kOutput) gate_by_output(offset, g);
      if constexpr (kInner) {
        if (args.gate == Gate::kInput) gate_by_input(offset, x, setup, channels, g);
      }
    }
    if (args.dresidual) store_vector_whole<kSize>(static_cast<T*>(args.dresidual) + offset, g);
    if (args.dmap) {
      F dmap[kSize];
      load_vector<kSize>(static_cast<const T*>(args.dmap) + offset, dmap);
#pragma unroll
      for (int i = 0; i < kSize; ++i) g[i] += dmap[i];
    }
    if constexpr (kInner) {
      if (args.denergy) add_energy(offset, plane, x, channels, g);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Channel& channel = channels[kChannels == 1 ? 0 : i];
      sum[kChannels == 1 ? 0 : i] += g[i];
      product[kChannels == 1 ? 0 : i] += g[i] * (x[i] - channel.affine.shift);
      // slope is 0 where x was not read
      g[i] =
          channel.affine.scale * g[i] + channel.constant + channel.slope * (x[i] - channel.center);
    }
    if (args.dx) store_vector_whole<kSize>(static_cast<T*>(args.dx) + offset, g);
  }

  __device__ void finish(int64_t channel, double sum, double product) const {
    finish_affine_gradient<F>(args, channel, sum, product);
  }
};

template <typename T, bool kInner>
const char* launch(const BatchNormBackwardArgs& args) {
  const BackwardBody<T, kInner> body{args, gradient_top<Compute<T>>(args.activation),
                                     args.reads_x()};
  const void* y = args.gate == Gate::kOutput ? args.y : nullptr;
  const void* residual = args.gate == Gate::kInput ? args.residual : nullptr;
  return launch_channel_sums(
      body, ChannelGrid(args.outer, args.channels, args.inner, args.denergy ? args.images : 0),
      aligned(args.x, 16) && aligned(y, 16) && aligned(residual, 16) && aligned(args.dy, 16) &&
          aligned(args.dy2, 16) && aligned(args.dmap, 16) && aligned(args.target, 16) &&
          aligned(args.dx, 16) && aligned(args.dresidual, 16) && aligned(args.dtarget, 16),
      args.stream);
}

}  // namespace

const char* batch_norm_backward(const BatchNormBackwardArgs& given) {
  const BatchNormBackwardArgs args = given.settled();
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  if (!args.dx && !args.dresidual && !args.dtarget && !args.dweight) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return args.denergy || args.gate == Gate::kInput ? launch<T, true>(args)
                                                       : launch<T, false>(args);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
