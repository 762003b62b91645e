// CPU kernel of batch_norm_backward.h. Pieces of a few hundred elements go through up to four short
// loops, first to g = dy where it passes, then to du, then from du and x to dx and to the affine
// gradients: every combination of optional operands at the price of L1 traffic. The gradient of
// planes to x alone is one loop.
#include "batch_norm_backward.h"

#include "batch_norm_gate.h"
#include "common/lane_sums.h"
#include "common/slabs.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T>
using Operands = BackwardOperands<T>;

// Elements of g kept between the loops; a multiple of kTileChannels.
constexpr int64_t kPiece = 1024;

// The coefficients of a run of one plane, and of a row of a tile of channels.
template <typename F>
struct PlaneGradient {
  GradientChannel<F> channel;

  AffineChannel<F> affine(int64_t) const { return channel.affine; }
  F shift(int64_t) const { return channel.affine.shift; }
  F scale(int64_t) const { return channel.affine.scale; }
  F constant(int64_t) const { return channel.constant; }
  F slope(int64_t) const { return channel.slope; }
  F center(int64_t) const { return channel.center; }
};

template <typename F>
struct TileGradient {
  F shifts[kTileChannels], scales[kTileChannels], biases[kTileChannels];
  F constants[kTileChannels], slopes[kTileChannels], centers[kTileChannels];

  void set(int64_t i, const GradientChannel<F>& channel) {
    shifts[i] = channel.affine.shift, scales[i] = channel.affine.scale;
    biases[i] = channel.affine.bias;
    constants[i] = channel.constant, slopes[i] = channel.slope, centers[i] = channel.center;
  }
  AffineChannel<F> affine(int64_t i) const { return {shifts[i], scales[i], biases[i]}; }
  F shift(int64_t i) const { return shifts[i]; }
  F scale(int64_t i) const { return scales[i]; }
  F constant(int64_t i) const { return constants[i]; }
  F slope(int64_t i) const { return slopes[i]; }
  F center(int64_t i) const { return centers[i]; }
};

// The gradient of an image's energies, per element of a run or a row.
template <typename F>
struct OneEnergy {
  F value;
  F operator[](int64_t) const { return value; }
};

// g + 2*denergy*(u - target), and the second term's negative.
template <bool kTarget, bool kTargetGradient, typename T, typename F, typename Gradient,
          typename Energy>
void add_energy_of(const Operands<T>& operands, F* __restrict g, int64_t size,
                   const Gradient& gradient, const Energy denergy) {
  const T* __restrict x = operands.x;
  const T* __restrict target = operands.target;
  T* __restrict dtarget = operands.dtarget;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    F u = gradient.affine(i)(to_compute(x[i]));
    if (kTarget) u -= to_compute(target[i]);
    const F du = F(2) * denergy[i] * u;
    g[i] += du;
    if (kTargetGradient) dtarget[i] = from_compute<T>(-du);
  }
}

template <typename T, typename F, typename Gradient, typename Energy>
void add_energy(const Operands<T>& operands, F* __restrict g, int64_t size,
                const Gradient& gradient, const Energy denergy) {
  if (!operands.target) {
    add_energy_of<false, false>(operands, g, size, gradient, denergy);
  } else if (!operands.dtarget) {
    add_energy_of<true, false>(operands, g, size, gradient, denergy);
  } else {
    add_energy_of<true, true>(operands, g, size, gradient, denergy);
  }
}

template <typename T, typename F>
void add_map(const T* __restrict dmap, F* __restrict g, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) g[i] += to_compute(dmap[i]);
}

template <typename T, typename F, typename Gradient>
void input_gradient(const T* __restrict x, const F* __restrict g, T* __restrict dx, int64_t size,
                    const Gradient& gradient, bool with_statistics) {
  if (with_statistics) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const F centered = to_compute(x[i]) - gradient.center(i);
      dx[i] = from_compute<T>(gradient.scale(i) * g[i] + gradient.constant(i) +
                              gradient.slope(i) * centered);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      dx[i] = from_compute<T>(gradient.scale(i) * g[i] + gradient.constant(i));
    }
  }
}

// The same from dy itself, which y or the value made anew from x gates.
template <Gate kGate, bool kStatistics, typename T, typename F>
void direct_gradient(const Operands<T>& operands, int64_t size, const GradientChannel<F> channel,
                     F top) {
  const T* __restrict x = operands.x;
  const T* __restrict y = operands.y;
  const T* __restrict dy = operands.dy;
  T* __restrict dx = operands.dx;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    F g = to_compute(dy[i]);
    if (kGate == Gate::kOutput) g = passes_gradient(F(to_compute(y[i])), top) ? g : F(0);
    if (kGate == Gate::kInput) {
      g = passes_gradient(channel.affine(F(to_compute(x[i]))), top) ? g : F(0);
    }
    F value = channel.affine.scale * g + channel.constant;
    if (kStatistics) value += channel.slope * (to_compute(x[i]) - channel.center);
    dx[i] = from_compute<T>(value);
  }
}

template <typename T, typename F>
using Direct = void (*)(const Operands<T>&, int64_t, GradientChannel<F>, F);

// Null where more than dx is wanted, or more than one gate is at work.
template <typename T, typename F>
Direct<T, F> choose_direct(const BatchNormBackwardArgs& args) {
  if (!args.dy || args.dy2 || !args.dx || args.dresidual || args.dweight || args.denergy ||
      args.dmap || args.residual || args.range) {
    return nullptr;
  }
  const bool statistics = args.dvar != nullptr;
  switch (args.gate) {
    case Gate::kNone:
      return statistics ? direct_gradient<Gate::kNone, true, T, F>
                        : direct_gradient<Gate::kNone, false, T, F>;
    case Gate::kOutput:
      return statistics ? direct_gradient<Gate::kOutput, true, T, F>
                        : direct_gradient<Gate::kOutput, false, T, F>;
    case Gate::kInput:
      return statistics ? direct_gradient<Gate::kInput, true, T, F>
                        : direct_gradient<Gate::kInput, false, T, F>;
  }
  return nullptr;
}

template <typename F>
struct TileSums {
  F sum[kTileChannels], product[kTileChannels];
};

template <typename T, typename F>
void affine_row(const T* __restrict x, const F* __restrict g, int64_t count,
                const TileGradient<F>& gradient, TileSums<F>& __restrict sums) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    sums.sum[i] += g[i];
    sums.product[i] += g[i] * (to_compute(x[i]) - gradient.shift(i));
  }
}

template <typename F>
const F* energy_gradients(const BatchNormBackwardArgs& args, int64_t row, int64_t channel) {
  const int64_t image = row / (args.outer / args.images);
  return static_cast<const F*>(args.denergy) + image * args.channels + channel;
}

// Planes of channels [first, last), at most kTileChannels of them.
template <typename T>
void backward_planes(const BatchNormBackwardArgs& args, const Operands<T>& operands,
                     const InputGate<Compute<T>>& passes, int64_t first_row, int64_t last_row,
                     int64_t first, int64_t last, double* sums) {
  using F = Compute<T>;
  PlaneGradient<F> gradients[kTileChannels];
  for (int64_t channel = first; channel < last; ++channel) {
    gradients[channel - first] = {gradient_channel<F>(args, channel)};
  }
  const Direct<T, F> direct = choose_direct<T, F>(args);
  // Small planes: several images before the lanes are summed.
  const int64_t rows = larger(1, kPiece / args.inner);
  LaneSums<F> lanes[kTileChannels];
  F g[kPiece], wide[kPiece];
  for (int64_t block = first_row; block < last_row; block += rows) {
    for (int64_t row = block; row < smaller(last_row, block + rows); ++row) {
      for (int64_t channel = first; channel < last; ++channel) {
        const PlaneGradient<F>& own = gradients[channel - first];
        for (int64_t begin = 0; begin < args.inner; begin += kPiece) {
          const Operands<T> part =
              operands.at((row * args.channels + channel) * args.inner + begin);
          const int64_t size = smaller(kPiece, args.inner - begin);
          if (direct) {
            direct(part, size, own.channel, passes.top);
            continue;
          }
          gate(args, part, g, size, own, passes);
          if (part.dmap) add_map(part.dmap, g, size);
          if (args.denergy) {
            const OneEnergy<F> denergy{*energy_gradients<F>(args, row, channel)};
            add_energy(part, g, size, own, denergy);
          }
          if (part.dx) input_gradient(part.x, g, part.dx, size, own, args.dvar != nullptr);
          if (!args.dweight) continue;
          lanes[channel - first].add_products(g, widened(part.x, wide, size), size, own.shift(0));
          if (begin + kPiece < args.inner) fold(lanes[channel - first], sums + 2 * channel);
        }
      }
    }
    for (int64_t channel = first; args.dweight && channel < last; ++channel) {
      fold(lanes[channel - first], sums + 2 * channel);
    }
  }
}

template <typename T>
void backward_tile(const BatchNormBackwardArgs& args, const Operands<T>& operands,
                   const InputGate<Compute<T>>& passes, int64_t first_row, int64_t last_row,
                   int64_t channel, double* sums) {
  using F = Compute<T>;
  const int64_t count = smaller(kTileChannels, args.channels - channel);
  TileGradient<F> tile;
  for (int64_t i = 0; i < count; ++i) tile.set(i, gradient_channel<F>(args, channel + i));
  TileSums<F> tile_sums;
  F g[kPiece];
  for (int64_t block = first_row; block < last_row; block += kTileRows) {
    for (int64_t i = 0; i < count; ++i) tile_sums.sum[i] = tile_sums.product[i] = F(0);
    for (int64_t row = block; row < smaller(last_row, block + kTileRows); ++row) {
      const Operands<T> part = operands.at(row * args.channels + channel);
      gate(args, part, g, count, tile, passes);
      if (part.dmap) add_map(part.dmap, g, count);
      if (args.denergy) {
        add_energy(part, g, count, tile, energy_gradients<F>(args, row, channel));
      }
      if (part.dx) input_gradient(part.x, g, part.dx, count, tile, args.dvar != nullptr);
      if (args.dweight) affine_row(part.x, g, count, tile, tile_sums);
    }
    for (int64_t i = 0; args.dweight && i < count; ++i) {
      sums[2 * (channel + i)] += static_cast<double>(tile_sums.sum[i]);
      sums[2 * (channel + i) + 1] += static_cast<double>(tile_sums.product[i]);
    }
  }
}

template <typename T>
void backward(const BatchNormBackwardArgs& args) {
  const Operands<T> operands{static_cast<const T*>(args.x),
                             args.gate == Gate::kOutput ? static_cast<const T*>(args.y) : nullptr,
                             static_cast<const T*>(args.residual),
                             static_cast<const T*>(args.dy),
                             static_cast<const T*>(args.dy2),
                             static_cast<const T*>(args.dmap),
                             static_cast<const T*>(args.target),
                             static_cast<T*>(args.dx),
                             static_cast<T*>(args.dresidual),
                             static_cast<T*>(args.dtarget)};
  const InputGate<Compute<T>> passes = input_gate<Compute<T>>(args);
  const auto visit = [&](int64_t first_row, int64_t last_row, int64_t first, int64_t last,
                         double* sums) {
    for (int64_t channel = first; channel < last; channel += kTileChannels) {
      if (args.inner == 1) {
        backward_tile(args, operands, passes, first_row, last_row, channel, sums);
      } else {
        backward_planes(args, operands, passes, first_row, last_row, channel,
                        smaller(last, channel + kTileChannels), sums);
      }
    }
  };
  if (args.dweight) {
    sum_by_channel(args.outer, args.channels, args.inner, args.scratch, visit,
                   [&](int64_t channel, double sum, double product) {
                     finish_affine_gradient<Compute<T>>(args, channel, sum, product);
                   });
  } else {
    visit_by_channel(args.outer, args.channels, args.inner,
                     [&](int64_t, int64_t first_row, int64_t last_row, int64_t first,
                         int64_t last) { visit(first_row, last_row, first, last, nullptr); });
  }
}

}  // namespace

const char* batch_norm_backward(const BatchNormBackwardArgs& given) {
  const BatchNormBackwardArgs args = given.settled();
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    backward<decltype(element)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
