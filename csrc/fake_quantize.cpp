// CPU kernels of fake_quantize.h: 2 bytes moved per byte of x, no division where there is FMA, all
// SIMD.
#include "fake_quantize.h"

#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// Channels-last data: quantizers of this many channels are kept side by side.
constexpr int kTile = 64;

template <typename T, typename F>
void quantize_run(const T* __restrict x, T* __restrict y, int64_t size,
                  const Quantizer<F> quantizer, Activation activation) {
  if (quantizer.regular) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      y[i] = from_compute<T>(quotient(quantizer, shifted_code(quantizer, to_compute(x[i]))));
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      y[i] = from_compute<T>(quantize_exact(quantizer, to_compute(x[i]), activation));
    }
  }
}

// One row of a tile of channels; bounds and scales differ from element to element.
template <typename F>
struct QuantizerTile {
  F scale[kTile], zero[kTile], low[kTile], high[kTile];
  F reciprocal[kTile], reciprocal_rest[kTile];
  bool regular = true;

  void set(int index, const Quantizer<F>& quantizer) {
    scale[index] = quantizer.scale;
    zero[index] = quantizer.zero;
    low[index] = quantizer.low;
    high[index] = quantizer.high;
    reciprocal[index] = quantizer.reciprocal;
    reciprocal_rest[index] = quantizer.reciprocal_rest;
    regular = regular && quantizer.regular;
  }

  Quantizer<F> get(int64_t index) const {
    return {scale[index],           zero[index], low[index], high[index], reciprocal[index],
            reciprocal_rest[index], regular};
  }
};

template <typename T, typename F>
void quantize_tile_row(const T* __restrict x, T* __restrict y, int64_t count,
                       const QuantizerTile<F>& tile) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Quantizer<F> own = tile.get(i);
    y[i] = from_compute<T>(quotient(own, shifted_code(own, to_compute(x[i]))));
  }
}

template <typename F>
struct QuantizerSource {
  const F* lower;
  const F* upper;
  int bits;
  bool real_zero_point;
  Activation activation;

  Quantizer<F> operator()(int64_t channel) const {
    return make_quantizer(lower[channel], upper[channel], bits, real_zero_point, activation);
  }
};

template <typename T>
void quantize_rows(const FakeQuantizeArgs& args, const QuantizerSource<Compute<T>>& source) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const int64_t channels = args.channels;
  parallel_for(args.outer, args.outer * channels, [&](int64_t first, int64_t last) {
    for (int64_t channel = 0; channel < channels; channel += kTile) {
      const int64_t count = smaller(kTile, channels - channel);
      QuantizerTile<F> tile;
      for (int i = 0; i < count; ++i) tile.set(i, source(channel + i));
      for (int64_t row = first; row < last; ++row) {
        const int64_t offset = row * channels + channel;
        if (tile.regular) {
          quantize_tile_row(x + offset, y + offset, count, tile);
          continue;
        }
        for (int64_t i = 0; i < count; ++i) {
          quantize_run(x + offset + i, y + offset + i, 1, source(channel + i), args.activation);
        }
      }
    }
  });
}

template <typename T>
void quantize_planes(const FakeQuantizeArgs& args, const QuantizerSource<Compute<T>>& source) {
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const bool one_range = args.channels == 1;
  const int64_t planes = one_range ? 1 : args.outer * args.channels;
  const int64_t length = one_range ? args.outer * args.inner : args.inner;
  parallel_segments(planes, length, [&](int64_t plane, int64_t begin, int64_t end) {
    const int64_t offset = plane * length + begin;
    quantize_run(x + offset, y + offset, end - begin, source(plane % args.channels),
                 args.activation);
  });
}

template <bool kGated, bool kClipped, typename T>
void gradient_run(const T* __restrict x, const T* __restrict dy, T* __restrict dx, int64_t size,
                  const Quantizer<Compute<T>> quantizer, Compute<T> half, Compute<T> top) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const Compute<T> value = to_compute(x[i]);
    bool keep = true;
    if (kGated) keep = keep & passes_gradient(value, top);
    if (kClipped) keep = keep & code_in_range(quantizer, value, half);
    dx[i] = keep ? dy[i] : T{};
  }
}

template <bool kGated, typename T, typename F>
void gradient_tile_row(const T* __restrict x, const T* __restrict dy, T* __restrict dx,
                       int64_t count, const QuantizerTile<F>& tile, F half, F top) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const F value = to_compute(x[i]);
    bool keep = code_in_range(tile.get(i), value, half);
    if (kGated) keep = keep & passes_gradient(value, top);
    dx[i] = keep ? dy[i] : T{};
  }
}

// Clipped, channels-last, a range per channel.
template <typename T>
void gradient_rows(const FakeQuantizeBackwardArgs& args,
                   const QuantizerSource<Compute<T>>& source) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  T* dx = static_cast<T*>(args.dx);
  const F half = static_cast<F>(1 << (args.bits - 1));
  const F top = gradient_top<F>(args.activation);
  const int64_t channels = args.channels;
  parallel_for(args.outer, args.outer * channels, [&](int64_t first, int64_t last) {
    for (int64_t channel = 0; channel < channels; channel += kTile) {
      const int64_t count = smaller(kTile, channels - channel);
      QuantizerTile<F> tile;
      for (int i = 0; i < count; ++i) tile.set(i, source(channel + i));
      for (int64_t row = first; row < last; ++row) {
        const int64_t offset = row * channels + channel;
        if (args.activation == Activation::kNone) {
          gradient_tile_row<false>(x + offset, dy + offset, dx + offset, count, tile, half, top);
        } else {
          gradient_tile_row<true>(x + offset, dy + offset, dx + offset, count, tile, half, top);
        }
      }
    }
  });
}

template <typename T>
void gradient_planes(const FakeQuantizeBackwardArgs& args,
                     const QuantizerSource<Compute<T>>& source) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  T* dx = static_cast<T*>(args.dx);
  const F half = static_cast<F>(1 << (args.bits - 1));
  const F top = gradient_top<F>(args.activation);
  // The range matters to a clipped gradient only.
  const bool one_range = args.channels == 1 || !args.clipped;
  const int64_t planes = one_range ? 1 : args.outer * args.channels;
  const int64_t length = one_range ? args.outer * args.channels * args.inner : args.inner;
  parallel_segments(planes, length, [&](int64_t plane, int64_t begin, int64_t end) {
    const int64_t offset = plane * length + begin;
    const int64_t size = end - begin;
    const Quantizer<F> quantizer = args.clipped ? source(plane % args.channels) : Quantizer<F>{};
    if (args.activation == Activation::kNone) {
      if (args.clipped) {
        gradient_run<false, true>(x + offset, dy + offset, dx + offset, size, quantizer, half, top);
      } else {
        gradient_run<false, false>(x + offset, dy + offset, dx + offset, size, quantizer, half,
                                   top);
      }
    } else if (args.clipped) {
      gradient_run<true, true>(x + offset, dy + offset, dx + offset, size, quantizer, half, top);
    } else {
      gradient_run<true, false>(x + offset, dy + offset, dx + offset, size, quantizer, half, top);
    }
  });
}

}  // namespace

const char* fake_quantize(const FakeQuantizeArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    using F = Compute<T>;
    const QuantizerSource<F> source{static_cast<const F*>(args.lower),
                                    static_cast<const F*>(args.upper), args.bits,
                                    args.real_zero_point, args.activation};
    if (args.inner == 1 && args.channels > 1) {
      quantize_rows<T>(args, source);
    } else {
      quantize_planes<T>(args, source);
    }
    return nullptr;
  });
}

const char* fake_quantize_backward(const FakeQuantizeBackwardArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    using F = Compute<T>;
    // Without its activation: where the gradient passes, the activation is the identity.
    const QuantizerSource<F> source{static_cast<const F*>(args.lower),
                                    static_cast<const F*>(args.upper), args.bits,
                                    args.real_zero_point, Activation::kNone};
    if (args.clipped && args.inner == 1 && args.channels > 1) {
      gradient_rows<T>(args, source);
    } else {
      gradient_planes<T>(args, source);
    }
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
