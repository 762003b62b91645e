// CPU kernel of batch_norm_match (batch_norm_match.h): x read once from memory (and from cache
// again for y), y written once.
#include "batch_norm_match.h"

#include "common/lane_sums.h"
#include "common/slabs.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T>
struct Operands {
  const T* x;
  const T* residual;
  T* y;

  Operands at(int64_t offset) const {
    return {x + offset, residual ? residual + offset : nullptr, y ? y + offset : nullptr};
  }
};

template <bool kResidual, typename T, typename F>
void output_run(const T* __restrict x, const T* __restrict residual, T* __restrict y, int64_t size,
                const AffineChannel<F> channel, const ActivationRange<F> act) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    F value = channel.scale * (to_compute(x[i]) - channel.shift) + channel.bias;
    if (kResidual) value += to_compute(residual[i]);
    y[i] = from_compute<T>(act(value));
  }
}

template <typename F>
struct AffineTile {
  F shift[kTileChannels], scale[kTileChannels], bias[kTileChannels];
  F sum[kTileChannels], squares[kTileChannels];
};

template <bool kStore, bool kResidual, typename T, typename F>
void forward_row(const T* __restrict x, const T* __restrict residual, T* __restrict y,
                 int64_t count, AffineTile<F>& __restrict tile, const ActivationRange<F> act) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const F difference = to_compute(x[i]) - tile.shift[i];
    tile.sum[i] += difference;
    tile.squares[i] += difference * difference;
    if (kStore) {
      F value = tile.scale[i] * difference + tile.bias[i];
      if (kResidual) value += to_compute(residual[i]);
      y[i] = from_compute<T>(act(value));
    }
  }
}

// Planes of channels [first, last), at most kTileChannels of them.
template <bool kStore, bool kResidual, typename T>
void forward_planes(const BatchNormMatchArgs& args, const Operands<T>& operands, int64_t first_row,
                    int64_t last_row, int64_t first, int64_t last, double* sums) {
  using F = Compute<T>;
  const ActivationRange<F> act = activation_range<F>(args.activation);
  AffineChannel<F> affine[kTileChannels];
  for (int64_t channel = first; channel < last; ++channel) {
    affine[channel - first] = affine_channel<F>(args, channel);
  }
  // Small planes: several images before the lanes are summed.
  const int64_t rows = larger(1, kSegment / args.inner);
  LaneSums<F> lanes[kTileChannels];
  F buffer[kSegment];
  for (int64_t block = first_row; block < last_row; block += rows) {
    for (int64_t row = block; row < smaller(last_row, block + rows); ++row) {
      for (int64_t channel = first; channel < last; ++channel) {
        const AffineChannel<F>& own = affine[channel - first];
        for (int64_t begin = 0; begin < args.inner; begin += kSegment) {
          const Operands<T> part =
              operands.at((row * args.channels + channel) * args.inner + begin);
          const int64_t size = smaller(kSegment, args.inner - begin);
          lanes[channel - first].add_squares(widened(part.x, buffer, size), size, own.shift);
          if (kStore) output_run<kResidual>(part.x, part.residual, part.y, size, own, act);
          if (begin + kSegment < args.inner) fold(lanes[channel - first], sums + 2 * channel);
        }
      }
    }
    for (int64_t channel = first; channel < last; ++channel) {
      fold(lanes[channel - first], sums + 2 * channel);
    }
  }
}

template <bool kStore, bool kResidual, typename T>
void forward_tile(const BatchNormMatchArgs& args, const Operands<T>& operands, int64_t first_row,
                  int64_t last_row, int64_t channel, double* sums) {
  using F = Compute<T>;
  const ActivationRange<F> act = activation_range<F>(args.activation);
  const int64_t count = smaller(kTileChannels, args.channels - channel);
  AffineTile<F> tile;
  for (int64_t i = 0; i < count; ++i) {
    const AffineChannel<F> affine = affine_channel<F>(args, channel + i);
    tile.shift[i] = affine.shift, tile.scale[i] = affine.scale, tile.bias[i] = affine.bias;
  }
  for (int64_t block = first_row; block < last_row; block += kTileRows) {
    for (int64_t i = 0; i < count; ++i) tile.sum[i] = tile.squares[i] = F(0);
    for (int64_t row = block; row < smaller(last_row, block + kTileRows); ++row) {
      const Operands<T> part = operands.at(row * args.channels + channel);
      forward_row<kStore, kResidual>(part.x, part.residual, part.y, count, tile, act);
    }
    for (int64_t i = 0; i < count; ++i) {
      sums[2 * (channel + i)] += static_cast<double>(tile.sum[i]);
      sums[2 * (channel + i) + 1] += static_cast<double>(tile.squares[i]);
    }
  }
}

template <bool kStore, bool kResidual, typename T>
void forward(const BatchNormMatchArgs& args) {
  const Operands<T> operands{static_cast<const T*>(args.x), static_cast<const T*>(args.residual),
                             static_cast<T*>(args.y)};
  const auto visit = [&](int64_t first_row, int64_t last_row, int64_t first, int64_t last,
                         double* sums) {
    for (int64_t channel = first; channel < last; channel += kTileChannels) {
      if (args.inner == 1) {
        forward_tile<kStore, kResidual>(args, operands, first_row, last_row, channel, sums);
      } else {
        forward_planes<kStore, kResidual>(args, operands, first_row, last_row, channel,
                                          smaller(last, channel + kTileChannels), sums);
      }
    }
  };
  sum_by_channel(args.outer, args.channels, args.inner, args.scratch, visit,
                 [&](int64_t channel, double sum, double squares) {
                   finish_statistics<Compute<T>>(args, channel, sum, squares);
                 });
}

}  // namespace

int64_t batch_norm_match_scratch(int64_t outer, int64_t channels, int64_t inner) {
  if (outer * channels * inner == 0) return 0;
  return 2 * channels * Slabs(outer, channels, inner).count;
}

const char* batch_norm_match(const BatchNormMatchArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    if (!args.y) {
      forward<false, false, T>(args);
    } else if (args.residual) {
      forward<true, true, T>(args);
    } else {
      forward<true, false, T>(args);
    }
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
