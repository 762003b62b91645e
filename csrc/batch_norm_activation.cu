// CUDA kernels of batch_norm_activation.h: x, the residual and the target read once, y and the map
// written once.
//
// Planes with energies: a group of up to a block's threads per plane, which sums its energy.
// Everything else goes by the skeleton of cuda_channel_sums.h, whose threads make the constants of
// a channel once for several vectors; for energies of channels-last data, with one group of rows
// per image.
#include "batch_norm_activation.h"

#include "common/cuda_channel_sums.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T, bool kQuantized>
struct ActivateBody {
  using Element = T;
  using F = Compute<T>;
  using Channel = AffineChannel<F>;
  using Setup = Quantizer<F>;
  static constexpr int kBlocks = 3;
  BatchNormActivationArgs args;
  ActivationRange<F> act;

  __device__ Channel channel(int64_t index) const { return affine_channel<F>(args, index); }
  __device__ bool sums() const { return args.energy != nullptr; }
  __device__ bool planes() const { return false; }
  __device__ const T* first_read() const { return static_cast<const T*>(args.x); }
  __device__ uint32_t* counters() const { return args.counters; }
  __device__ double* scratch() const { return args.scratch; }

  __device__ Setup setup() const {
    if (!kQuantized) return {};
    const F* range = static_cast<const F*>(args.range);
    return make_quantizer(range[0], range[1], args.bits, false, args.activation);
  }

  // Of the distances from the target.
  template <int kSize, int kChannels>
  __device__ void add_squares(int64_t offset, const F (&values)[kSize],
                              F (&squares)[kChannels]) const {
    F apart[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) apart[i] = F(0);
    if (args.target) load_vector<kSize>(static_cast<const T*>(args.target) + offset, apart);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const F difference = values[i] - apart[i];
      squares[kChannels == 1 ? 0 : i] += difference * difference;
    }
  }

  // The skeleton's second sum stays 0.
  template <int kSize, int kChannels>
  __device__ void apply(int64_t offset, int64_t, const Setup& quantizer,
                        const Channel (&channels)[kChannels], F (&squares)[kChannels],
                        F (&)[kChannels]) const {
    F values[kSize], residual[kSize];
    load_vector<kSize>(static_cast<const T*>(args.x) + offset, values);
    if (args.residual) load_vector<kSize>(static_cast<const T*>(args.residual) + offset, residual);
#pragma unroll
    for (int i = 0; i < kSize; ++i) values[i] = channels[kChannels == 1 ? 0 : i](values[i]);
    if (args.energy) add_squares(offset, values, squares);
    if (args.map) store_vector_whole<kSize>(static_cast<T*>(args.map) + offset, values);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (args.residual) values[i] += residual[i];
    }
    if (!kQuantized) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) values[i] = act(values[i]);
    } else if (quantizer.regular) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        values[i] = dequantize(quantizer, shifted_code(quantizer, values[i]));
      }
    } else {
#pragma unroll  // an index that is not constant would put the values on the stack
      for (int i = 0; i < kSize; ++i) {
        values[i] = quantize_exact(quantizer, values[i], args.activation);
      }
    }
    store_vector_whole<kSize>(static_cast<T*>(args.y) + offset, values);
  }

  __device__ void finish(int64_t plane, double squares, double) const {
    static_cast<F*>(args.energy)[plane] = static_cast<F>(squares);
  }
};

// Threads x, a power of two, along a plane; y and the grid along the planes.
template <typename Body, int kSize>
__global__ void __launch_bounds__(kBlock, 2) activate_planes(Body body, int64_t planes) {
  using F = typename Body::F;
  __shared__ F warps[kBlock / kWarp];
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  F squares[1] = {F(0)}, unused[1] = {F(0)};
  if (plane < planes) {
    const int64_t length = body.args.spatial, offset = plane * length;
    if (threadIdx.x < length / kSize) prefetch(body.first_read(), offset + threadIdx.x * kSize);
    const typename Body::Channel channel[1] = {body.channel(plane % body.args.channels)};
    const typename Body::Setup setup = body.setup();
#pragma unroll 2
    for (int64_t i = threadIdx.x; i < length / kSize; i += blockDim.x) {
      body.template apply<kSize>(offset + i * kSize, plane, setup, channel, squares, unused);
    }
  }
  const unsigned lanes = blockDim.x < kWarp ? blockDim.x : kWarp;
  for (unsigned bit = lanes / 2; bit > 0; bit /= 2) {
    squares[0] += __shfl_xor_sync(kFullMask, squares[0], static_cast<int>(bit));
  }
  const unsigned warp = thread_rank() / kWarp;
  if (thread_rank() % kWarp == 0) warps[warp] = squares[0];
  __syncthreads();
  if (threadIdx.x != 0 || plane >= planes) return;
  for (unsigned i = 1; i < blockDim.x / kWarp; ++i) squares[0] += warps[warp + i];
  static_cast<F*>(body.args.energy)[plane] = squares[0];
}

template <typename Body, int kSize>
const char* launch_planes(const Body& body, void* stream) {
  const int64_t planes = body.args.images * body.args.channels;
  // Several vectors to a thread: the constants of its channel cost as much as eight elements.
  const unsigned x =
      power_of_two_covering(ceil_div(body.args.spatial, kSize == 1 ? 8 : 4 * kSize), kBlock);
  const unsigned y = kBlock / x;
  const int64_t blocks = ceil_div(planes, y);
  if (const char* error = grid_error(blocks)) return error;
  const auto kernel = activate_planes<Body, kSize>;
  HAST_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(x, y), 0, stream, body, planes);
  return launch_error();
}

ChannelGrid rows_grid(int64_t images, int64_t channels, int64_t spatial, bool energy) {
  return ChannelGrid(images * spatial, channels, 1, images, energy);
}

template <typename T, bool kQuantized>
const char* launch(const BatchNormActivationArgs& args) {
  const ActivateBody<T, kQuantized> body{args, activation_range<Compute<T>>(args.activation)};
  const bool vectors = aligned(args.x, 16) && aligned(args.residual, 16) &&
                       aligned(args.target, 16) && aligned(args.y, 16) && aligned(args.map, 16);
  if (args.channels_last && args.channels > 1) {
    constexpr int kNarrow = kChannelVector<T>;
    const ChannelGrid grid =
        rows_grid(args.images, args.channels, args.spatial, args.energy != nullptr);
    return vectors && args.channels % kNarrow == 0
               ? launch_sum_rows<ActivateBody<T, kQuantized>, kNarrow>(body, grid, args.stream)
               : launch_sum_rows<ActivateBody<T, kQuantized>, 1>(body, grid, args.stream);
  }
  if (!args.energy) {
    const ChannelGrid grid(args.images, args.channels, args.spatial);
    return launch_channel_sums(body, grid, vectors, args.stream);
  }
  return vectors && args.spatial % kVector<T> == 0
             ? launch_planes<ActivateBody<T, kQuantized>, kVector<T>>(body, args.stream)
             : launch_planes<ActivateBody<T, kQuantized>, 1>(body, args.stream);
}

}  // namespace

int64_t batch_norm_activation_scratch(int64_t images, int64_t channels, int64_t spatial,
                                      bool channels_last) {
  if (!channels_last || images * channels * spatial == 0) return 0;
  return rows_grid(images, channels, spatial, true).scratch();
}

const char* batch_norm_activation(const BatchNormActivationArgs& args) {
  if (args.images * args.channels * args.spatial == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return args.range ? launch<T, true>(args) : launch<T, false>(args);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
