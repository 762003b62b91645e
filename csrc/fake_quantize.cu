// CUDA kernels of fake_quantize.h. Memory-bound: forward reads x and writes y once, backward reads
// x and dy and writes dx, in 128-bit pieces where pointers and sizes allow. Threads run along the
// inner axis of planes that share a range, or along the channels of channels-last data; ranges are
// read on the device, so nothing synchronises.
#include "fake_quantize.h"

#include "common/cuda_launch.h"
#include "common/cuda_vector.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// Vectors in flight per thread.
constexpr int kUnroll = 2;

template <typename F, typename Args>
__device__ __forceinline__ Quantizer<F> quantizer_of(const Args& args, int64_t channel,
                                                     Activation activation) {
  return make_quantizer(static_cast<const F*>(args.lower)[channel],
                        static_cast<const F*>(args.upper)[channel], args.bits, args.real_zero_point,
                        activation);
}

// The operation on packed operands of regular channels, and on a single element of any channel.
// Forward: y = quantized x.
template <typename T>
struct Forward {
  using Element = T;
  using F = Compute<T>;
  using Channel = Quantizer<F>;
  static constexpr bool kTwoInputs = false;
  FakeQuantizeArgs args;

  __device__ const T* input() const { return static_cast<const T*>(args.x); }
  __device__ const T* second_input() const { return nullptr; }
  __device__ T* output() const { return static_cast<T*>(args.y); }
  __device__ Channel channel(int64_t index) const {
    return quantizer_of<F>(args, index, args.activation);
  }

  template <int kSize, int kChannels>
  __device__ Packed<T, kSize> vector(const Packed<T, kSize>& x, const Packed<T, kSize>&,
                                     const Channel (&channels)[kChannels]) const {
    F values[kSize];
    unpack(x, values);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Channel& channel = channels[kChannels == 1 ? 0 : i];
      values[i] = dequantize(channel, shifted_code(channel, values[i]));
    }
    return pack<T, kSize>(values);
  }

  __device__ T element(T x, T, const Channel& channel) const {
    return from_compute<T>(quantize_exact(channel, to_compute(x), args.activation));
  }

  __device__ bool regular(const Channel& channel) const { return channel.regular; }
};

// Backward: dx = dy where the gradient passes, bit for bit.
template <typename T>
struct Backward {
  using Element = T;
  using F = Compute<T>;
  using Channel = Quantizer<F>;
  static constexpr bool kTwoInputs = true;
  FakeQuantizeBackwardArgs args;

  __device__ const T* input() const { return static_cast<const T*>(args.x); }
  __device__ const T* second_input() const { return static_cast<const T*>(args.dy); }
  __device__ T* output() const { return static_cast<T*>(args.dx); }
  // Without its activation: where the gradient passes, the activation is the identity.
  __device__ Channel channel(int64_t index) const {
    return args.clipped ? quantizer_of<F>(args, index, Activation::kNone) : Channel{};
  }

  template <int kSize, int kChannels>
  __device__ Packed<T, kSize> vector(const Packed<T, kSize>& x, const Packed<T, kSize>& dy,
                                     const Channel (&channels)[kChannels]) const {
    const F half = static_cast<F>(1 << (args.bits - 1));
    const F top = gradient_top<F>(args.activation);
    F values[kSize];
    unpack(x, values);
    Packed<T, kSize> dx = dy;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      bool keep = args.activation == Activation::kNone || passes_gradient(values[i], top);
      if (args.clipped) {
        keep = keep && code_in_range(channels[kChannels == 1 ? 0 : i], values[i], half);
      }
      if (!keep) dx.values[i] = T{};
    }
    return dx;
  }

  __device__ T element(T x, T dy, const Channel& channel) const {
    const Channel channels[1] = {channel};
    return vector<1>(Packed<T, 1>{{x}}, Packed<T, 1>{{dy}}, channels).values[0];
  }

  __device__ bool regular(const Channel&) const { return true; }
};

// Threads x along the vectors of each plane. Elements after the last whole one (which only a single
// plane has) come one by one, and so do those of an irregular channel.
template <typename Body, int kSize>
__global__ void __launch_bounds__(kBlock, 3)
    map_planes(Body body, int64_t planes, int64_t channels, int64_t length) {
  using T = typename Body::Element;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t plane_step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  int64_t plane = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
  for (; plane < planes; plane += plane_step) {
    if (start * kSize < length) prefetch(body.input(), plane * length + start * kSize);
    const typename Body::Channel channel[1] = {body.channel(plane % channels)};
    const int64_t vectors = body.regular(channel[0]) ? length / kSize : 0;
    const T* x = body.input() + plane * length;
    const T* dy = body.second_input() + (Body::kTwoInputs ? plane * length : 0);
    T* y = body.output() + plane * length;
    for (int64_t i = start; i < vectors; i += kUnroll * step) {
      Packed<T, kSize> first[kUnroll] = {}, second[kUnroll] = {};
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t offset = (i + u * step) * kSize;
        if (i + u * step < vectors) {
          first[u] = load_packed<kSize>(x + offset);
          if (Body::kTwoInputs) second[u] = load_packed<kSize>(dy + offset);
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (i + u * step < vectors) {
          store_packed<kSize>(y + (i + u * step) * kSize,
                              body.vector(first[u], second[u], channel));
        }
      }
    }
    for (int64_t rest = vectors * kSize + start; rest < length; rest += step) {
      y[rest] = body.element(x[rest], Body::kTwoInputs ? dy[rest] : T{}, channel[0]);
    }
  }
}

// Channels-last: a thread keeps the quantizers of kSize channels and goes down the rows.
template <typename Body, int kSize>
__global__ void __launch_bounds__(kBlock, 1) map_rows(Body body, int64_t rows, int64_t channels) {
  using T = typename Body::Element;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * kSize;
  const int64_t row_step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
  int64_t c = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kSize;
  for (; c < channels; c += step) {
    if (first_row < rows) prefetch(body.input(), first_row * channels + c);
    typename Body::Channel channel[kSize];
    bool regular = true;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      channel[i] = body.channel(c + i);
      regular = regular && body.regular(channel[i]);
    }
    for (int64_t row = first_row; row < rows; row += row_step) {
      const int64_t offset = row * channels + c;
      const T* x = body.input() + offset;
      const T* dy = body.second_input() + (Body::kTwoInputs ? offset : 0);
      T* y = body.output() + offset;
      if (regular) {
        Packed<T, kSize> second{};
        if (Body::kTwoInputs) second = load_packed<kSize>(dy);
        store_packed<kSize>(y, body.vector(load_packed<kSize>(x), second, channel));
      } else {
#pragma unroll 1
        for (int i = 0; i < kSize; ++i) {
          y[i] = body.element(x[i], Body::kTwoInputs ? dy[i] : T{}, body.channel(c + i));
        }
      }
    }
  }
}

template <typename Body, int kSize>
const char* launch_planes(const Body& body, int64_t planes, int64_t channels, int64_t length,
                          void* stream) {
  // At most 4096 blocks along a plane: a thread's range has to pay for itself.
  Launch shape = cover(planes, larger(1, length / kSize), 1, 2 * kUnroll);
  shape.grid.x = clamped(shape.grid.x, 4096);
  const auto kernel = map_planes<Body, kSize>;
  HAST_LAUNCH(kernel, shape.grid, shape.block, 0, stream, body, planes, channels, length);
  return launch_error();
}

template <typename Body, int kSize>
const char* launch_rows(const Body& body, int64_t rows, int64_t channels, void* stream) {
  const Launch shape = cover(rows, channels / kSize, 8, 1, kWarp);
  const auto kernel = map_rows<Body, kSize>;
  HAST_LAUNCH(kernel, shape.grid, shape.block, 0, stream, body, rows, channels);
  return launch_error();
}

template <typename Body, typename Args>
const char* launch(const Body& body, const Args& args, bool one_range, bool pointers_aligned) {
  using T = typename Body::Element;
  constexpr int kWide = kVector<T>, kNarrow = kChannelVector<T>;
  if (one_range) {
    const int64_t size = args.outer * args.channels * args.inner;
    return pointers_aligned ? launch_planes<Body, kWide>(body, 1, 1, size, args.stream)
                            : launch_planes<Body, 1>(body, 1, 1, size, args.stream);
  }
  if (args.inner == 1) {
    return pointers_aligned && args.channels % kNarrow == 0
               ? launch_rows<Body, kNarrow>(body, args.outer, args.channels, args.stream)
               : launch_rows<Body, 1>(body, args.outer, args.channels, args.stream);
  }
  const int64_t planes = args.outer * args.channels;
  return pointers_aligned && args.inner % kWide == 0
             ? launch_planes<Body, kWide>(body, planes, args.channels, args.inner, args.stream)
             : launch_planes<Body, 1>(body, planes, args.channels, args.inner, args.stream);
}

}  // namespace

const char* fake_quantize(const FakeQuantizeArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return launch(Forward<T>{args}, args, args.channels == 1,
                    aligned(args.x, 16) && aligned(args.y, 16));
    });
  });
}

const char* fake_quantize_backward(const FakeQuantizeBackwardArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      // The range matters to a clipped gradient only.
      return launch(Backward<T>{args}, args, args.channels == 1 || !args.clipped,
                    aligned(args.x, 16) && aligned(args.dy, 16) && aligned(args.dx, 16));
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
