// CPU kernel of batch_norm_activation.h: x and the residual read once, y written once. The map and
// the distance from the target are loops of their own over the same few elements.
#include "batch_norm_activation.h"

#include "common/slabs.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

enum class Output { kActivated, kQuantized, kQuantizedExactly };

template <typename T>
struct Operands {
  const T* x;
  const T* residual;
  const T* target;  // or null
  T* y;
  T* map;  // or null

  Operands at(int64_t offset) const {
    return {x + offset, residual ? residual + offset : nullptr, target ? target + offset : nullptr,
            y + offset, map ? map + offset : nullptr};
  }
};

template <typename F>
struct Outlet {
  ActivationRange<F> act;
  Activation activation;
  Quantizer<F> quantizer;

  template <Output kOutput>
  F value(F v) const {
    if (kOutput == Output::kActivated) return act(v);
    // Not quotient(): its five operations cost this loop, which has much to do, more than a
    // division (with AVX2 a fifth of its time for planes, half for channels-last data).
    if (kOutput == Output::kQuantized) return shifted_code(quantizer, v) / quantizer.scale;
    return quantize_exact(quantizer, v, activation);
  }
};

// A run of one plane; returns its sum of squares.
template <Output kOutput, bool kResidual, typename T, typename F>
F activate_run(const T* __restrict x, const T* __restrict residual, T* __restrict y, int64_t size,
               const AffineChannel<F> channel, const Outlet<F> outlet) {
  F squares = F(0);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) {
    F value = channel(to_compute(x[i]));
    squares += value * value;
    if (kResidual) value += to_compute(residual[i]);
    y[i] = from_compute<T>(outlet.template value<kOutput>(value));
  }
  return squares;
}

// The sum of squared distances from the target.
template <typename T, typename F>
F distance_run(const T* __restrict x, const T* __restrict target, int64_t size,
               const AffineChannel<F> channel) {
  F squares = F(0);
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < size; ++i) {
    const F difference = channel(to_compute(x[i])) - to_compute(target[i]);
    squares += difference * difference;
  }
  return squares;
}

template <typename T, typename F>
void map_run(const T* __restrict x, T* __restrict map, int64_t size,
             const AffineChannel<F> channel) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) map[i] = from_compute<T>(channel(to_compute(x[i])));
}

template <typename F>
struct AffineTile {
  F shift[kTileChannels], scale[kTileChannels], bias[kTileChannels];
  F squares[kTileChannels];    // of u
  F distances[kTileChannels];  // of u from the target, squared

  F operator()(int64_t i, F x) const { return scale[i] * (x - shift[i]) + bias[i]; }
};

template <typename T, typename F>
void distance_row(const T* __restrict x, const T* __restrict target, int64_t count,
                  AffineTile<F>& __restrict tile) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const F difference = tile(i, to_compute(x[i])) - to_compute(target[i]);
    tile.distances[i] += difference * difference;
  }
}

template <typename T, typename F>
void map_row(const T* __restrict x, T* __restrict map, int64_t count, const AffineTile<F>& tile) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) map[i] = from_compute<T>(tile(i, to_compute(x[i])));
}

template <Output kOutput, bool kResidual, typename T, typename F>
void activate_row(const T* __restrict x, const T* __restrict residual, T* __restrict y,
                  int64_t count, AffineTile<F>& __restrict tile, const Outlet<F> outlet) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    F value = tile(i, to_compute(x[i]));
    tile.squares[i] += value * value;
    if (kResidual) value += to_compute(residual[i]);
    y[i] = from_compute<T>(outlet.template value<kOutput>(value));
  }
}

template <Output kOutput, bool kResidual, typename T>
void activate_planes(const BatchNormActivationArgs& args, const Operands<T>& operands,
                     const Outlet<Compute<T>>& outlet) {
  using F = Compute<T>;
  const int64_t planes = args.images * args.channels;
  parallel_for(planes, planes * args.spatial, [&](int64_t first, int64_t last) {
    for (int64_t plane = first; plane < last; ++plane) {
      const AffineChannel<F> channel = affine_channel<F>(args, plane % args.channels);
      double squares = 0.0;
      for (int64_t begin = 0; begin < args.spatial; begin += kSegment) {
        const Operands<T> part = operands.at(plane * args.spatial + begin);
        const int64_t size = smaller(kSegment, args.spatial - begin);
        F sum =
            activate_run<kOutput, kResidual>(part.x, part.residual, part.y, size, channel, outlet);
        if (part.target) sum = distance_run(part.x, part.target, size, channel);
        if (part.map) map_run(part.x, part.map, size, channel);
        squares += static_cast<double>(sum);
      }
      if (args.energy) static_cast<F*>(args.energy)[plane] = static_cast<F>(squares);
    }
  });
}

// Channels-last: up to kTileChannels channels of one image.
template <Output kOutput, bool kResidual, typename T>
void activate_tile(const BatchNormActivationArgs& args, const Operands<T>& operands,
                   const Outlet<Compute<T>>& outlet, int64_t image, int64_t channel) {
  using F = Compute<T>;
  const int64_t count = smaller(kTileChannels, args.channels - channel);
  AffineTile<F> tile;
  double squares[kTileChannels] = {};
  for (int64_t i = 0; i < count; ++i) {
    const AffineChannel<F> affine = affine_channel<F>(args, channel + i);
    tile.shift[i] = affine.shift, tile.scale[i] = affine.scale, tile.bias[i] = affine.bias;
  }
  for (int64_t block = 0; block < args.spatial; block += kTileRows) {
    for (int64_t i = 0; i < count; ++i) tile.squares[i] = tile.distances[i] = F(0);
    for (int64_t row = block; row < smaller(args.spatial, block + kTileRows); ++row) {
      const Operands<T> part = operands.at((image * args.spatial + row) * args.channels + channel);
      activate_row<kOutput, kResidual>(part.x, part.residual, part.y, count, tile, outlet);
      if (part.target) distance_row(part.x, part.target, count, tile);
      if (part.map) map_row(part.x, part.map, count, tile);
    }
    const F* sums = operands.target ? tile.distances : tile.squares;
    for (int64_t i = 0; i < count; ++i) squares[i] += static_cast<double>(sums[i]);
  }
  if (!args.energy) return;
  F* energy = static_cast<F*>(args.energy) + image * args.channels + channel;
  for (int64_t i = 0; i < count; ++i) energy[i] = static_cast<F>(squares[i]);
}

template <Output kOutput, bool kResidual, typename T>
void activate(const BatchNormActivationArgs& args, const Outlet<Compute<T>>& outlet) {
  const Operands<T> operands{static_cast<const T*>(args.x), static_cast<const T*>(args.residual),
                             static_cast<const T*>(args.target), static_cast<T*>(args.y),
                             static_cast<T*>(args.map)};
  // A map of one pixel is a row of channels in either layout.
  if (!args.channels_last && args.spatial > 1) {
    return activate_planes<kOutput, kResidual>(args, operands, outlet);
  }
  const int64_t tiles = ceil_div(args.channels, kTileChannels);
  parallel_for(args.images * tiles, args.images * args.channels * args.spatial,
               [&](int64_t first, int64_t last) {
                 for (int64_t item = first; item < last; ++item) {
                   activate_tile<kOutput, kResidual>(args, operands, outlet, item / tiles,
                                                     item % tiles * kTileChannels);
                 }
               });
}

template <Output kOutput, typename T>
void choose_residual(const BatchNormActivationArgs& args, const Outlet<Compute<T>>& outlet) {
  if (args.residual) {
    activate<kOutput, true, T>(args, outlet);
  } else {
    activate<kOutput, false, T>(args, outlet);
  }
}

}  // namespace

int64_t batch_norm_activation_scratch(int64_t, int64_t, int64_t, bool) { return 0; }

const char* batch_norm_activation(const BatchNormActivationArgs& args) {
  if (args.images * args.channels * args.spatial == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    using F = Compute<T>;
    Outlet<F> outlet = {activation_range<F>(args.activation), args.activation, {}};
    if (!args.range) {
      choose_residual<Output::kActivated, T>(args, outlet);
      return nullptr;
    }
    const F* range = static_cast<const F*>(args.range);
    outlet.quantizer = make_quantizer(range[0], range[1], args.bits, false, args.activation);
    if (outlet.quantizer.regular) {
      choose_residual<Output::kQuantized, T>(args, outlet);
    } else {
      choose_residual<Output::kQuantizedExactly, T>(args, outlet);
    }
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
