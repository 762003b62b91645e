// CPU kernel of batch_norm_match_backward (batch_stats.h). Pieces of a few hundred elements go
// through up to three short loops, first to g = dy where the activation passes, then from g and x
// to dx and to the affine gradients: every combination of optional operands at the price of L1
// traffic.
#include "batch_stats.h"
#include "common/slabs.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// Elements of g kept between the loops; a multiple of kTileChannels.
constexpr int64_t kPiece = 1024;

template <typename T>
struct Operands {
  const T* x;
  const T* y;  // null: nothing is gated
  const T* dy;
  T* dx;
  T* dresidual;

  Operands at(int64_t offset) const {
    return {x + offset, y ? y + offset : nullptr, dy ? dy + offset : nullptr,
            dx ? dx + offset : nullptr, dresidual ? dresidual + offset : nullptr};
  }
};

template <typename T, typename F>
void gate(const Operands<T>& operands, F* __restrict g, int64_t size, F top) {
  const T* __restrict y = operands.y;
  const T* __restrict dy = operands.dy;
  T* __restrict dresidual = operands.dresidual;
  if (!dy) {
    for (int64_t i = 0; i < size; ++i) g[i] = F(0);
  } else if (!y) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) g[i] = to_compute(dy[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const F gradient = to_compute(dy[i]);
      g[i] = passes_gradient(F(to_compute(y[i])), top) ? gradient : F(0);
    }
  }
  if (dresidual) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) dresidual[i] = from_compute<T>(g[i]);
  }
}

template <typename T, typename F>
void input_run(const T* __restrict x, const F* __restrict g, T* __restrict dx, int64_t size,
               const GradientChannel<F> channel, bool with_statistics) {
  if (with_statistics) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const F centered = to_compute(x[i]) - channel.center;
      dx[i] = from_compute<T>(channel.scale * g[i] + channel.constant + channel.slope * centered);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      dx[i] = from_compute<T>(channel.scale * g[i] + channel.constant);
    }
  }
}

template <typename T, typename F>
void affine_run(const T* __restrict x, const F* __restrict g, int64_t size, F shift, double* sums) {
  F sum = F(0), product = F(0);
#pragma omp simd reduction(+ : sum, product)
  for (int64_t i = 0; i < size; ++i) {
    sum += g[i];
    product += g[i] * (to_compute(x[i]) - shift);
  }
  sums[0] += static_cast<double>(sum);
  sums[1] += static_cast<double>(product);
}

template <typename F>
struct GradientTile {
  F shift[kTileChannels], scale[kTileChannels], constant[kTileChannels];
  F slope[kTileChannels], center[kTileChannels];
  F sum[kTileChannels], product[kTileChannels];
};

template <typename T, typename F>
void input_row(const T* __restrict x, const F* __restrict g, T* __restrict dx, int64_t count,
               const GradientTile<F>& tile) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const F centered = to_compute(x[i]) - tile.center[i];
    dx[i] = from_compute<T>(tile.scale[i] * g[i] + tile.constant[i] + tile.slope[i] * centered);
  }
}

template <typename T, typename F>
void affine_row(const T* __restrict x, const F* __restrict g, int64_t count,
                GradientTile<F>& __restrict tile) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    tile.sum[i] += g[i];
    tile.product[i] += g[i] * (to_compute(x[i]) - tile.shift[i]);
  }
}

// Planes of channels [first, last), at most kTileChannels of them.
template <typename T>
void backward_planes(const BatchNormMatchBackwardArgs& args, const Operands<T>& operands,
                     int64_t first_row, int64_t last_row, int64_t first, int64_t last,
                     double* sums) {
  using F = Compute<T>;
  const F top = gradient_top<F>(args.activation);
  GradientChannel<F> gradient[kTileChannels];
  for (int64_t channel = first; channel < last; ++channel) {
    gradient[channel - first] = gradient_channel<F>(args, channel);
  }
  F g[kPiece];
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t channel = first; channel < last; ++channel) {
      const GradientChannel<F>& own = gradient[channel - first];
      for (int64_t begin = 0; begin < args.inner; begin += kPiece) {
        const Operands<T> part = operands.at((row * args.channels + channel) * args.inner + begin);
        const int64_t size = smaller(kPiece, args.inner - begin);
        gate(part, g, size, top);
        if (part.dx) input_run(part.x, g, part.dx, size, own, args.dvar != nullptr);
        if (args.dweight) affine_run(part.x, g, size, own.shift, sums + 2 * channel);
      }
    }
  }
}

template <typename T>
void backward_tile(const BatchNormMatchBackwardArgs& args, const Operands<T>& operands,
                   int64_t first_row, int64_t last_row, int64_t channel, double* sums) {
  using F = Compute<T>;
  const F top = gradient_top<F>(args.activation);
  const int64_t count = smaller(kTileChannels, args.channels - channel);
  GradientTile<F> tile;
  for (int64_t i = 0; i < count; ++i) {
    const GradientChannel<F> gradient = gradient_channel<F>(args, channel + i);
    tile.shift[i] = gradient.shift, tile.scale[i] = gradient.scale;
    tile.constant[i] = gradient.constant, tile.slope[i] = gradient.slope;
    tile.center[i] = gradient.center;
  }
  F g[kPiece];
  for (int64_t block = first_row; block < last_row; block += kTileRows) {
    for (int64_t i = 0; i < count; ++i) tile.sum[i] = tile.product[i] = F(0);
    for (int64_t row = block; row < smaller(last_row, block + kTileRows); ++row) {
      const Operands<T> part = operands.at(row * args.channels + channel);
      gate(part, g, count, top);
      if (part.dx) input_row(part.x, g, part.dx, count, tile);
      if (args.dweight) affine_row(part.x, g, count, tile);
    }
    for (int64_t i = 0; args.dweight && i < count; ++i) {
      sums[2 * (channel + i)] += static_cast<double>(tile.sum[i]);
      sums[2 * (channel + i) + 1] += static_cast<double>(tile.product[i]);
    }
  }
}

template <typename T>
void backward(const BatchNormMatchBackwardArgs& args) {
  const bool gated = args.activation != Activation::kNone && args.dy;
  const Operands<T> operands{
      static_cast<const T*>(args.x), gated ? static_cast<const T*>(args.y) : nullptr,
      static_cast<const T*>(args.dy), static_cast<T*>(args.dx), static_cast<T*>(args.dresidual)};
  const auto visit = [&](int64_t first_row, int64_t last_row, int64_t first, int64_t last,
                         double* sums) {
    for (int64_t channel = first; channel < last; channel += kTileChannels) {
      if (args.inner == 1) {
        backward_tile(args, operands, first_row, last_row, channel, sums);
      } else {
        backward_planes(args, operands, first_row, last_row, channel,
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

const char* batch_norm_match_backward(const BatchNormMatchBackwardArgs& args) {
  if (args.outer * args.channels * args.inner == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    backward<decltype(element)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
