// CPU kernels of channel_attention.h: each map is read once, its gradient written once.
#include "channel_attention.h"

#include "common/lane_sums.h"
#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int64_t kTile = 128;      // channels side by side
constexpr int64_t kSegment = 4096;  // elements summed before the sum goes to double

template <typename T, typename F>
void add_squares(const T* __restrict x, F* __restrict sums, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const F value = to_compute(x[i]);
    sums[i] += value * value;
  }
}

template <typename T, typename F>
void scale_run(const T* __restrict x, T* __restrict dx, int64_t size, F factor) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) dx[i] = from_compute<T>(factor * to_compute(x[i]));
}

template <typename T, typename F>
void scale_row(const T* __restrict x, T* __restrict dx, const F* __restrict factors,
               int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) dx[i] = from_compute<T>(factors[i] * to_compute(x[i]));
}

int64_t tiles_of(const AttentionMap& map) { return ceil_div(map.channels, kTile); }

// Independent units of a map: its planes, or tiles of channels of a channels-last image.
int64_t units_of(const AttentionMap& map) {
  return map.batch * (map.channels_last ? tiles_of(map) : map.channels);
}

template <typename T>
void energy_of_plane(const AttentionMap& map, int64_t plane) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(map.map) + plane * map.spatial;
  double sum = 0.0;
  F buffer[kSegment];
  for (int64_t begin = 0; begin < map.spatial; begin += kSegment) {
    const int64_t size = smaller(kSegment, map.spatial - begin);
    sum += static_cast<double>(sum_of_squares(widened(x + begin, buffer, size), size));
  }
  static_cast<F*>(map.energy)[plane] = static_cast<F>(sum);
}

template <typename T>
void energy_of_tile(const AttentionMap& map, int64_t unit) {
  using F = Compute<T>;
  const int64_t sample = unit / tiles_of(map);
  const int64_t channel = unit % tiles_of(map) * kTile;
  const int64_t count = smaller(kTile, map.channels - channel);
  const T* x = static_cast<const T*>(map.map) + sample * map.spatial * map.channels + channel;
  F* energy = static_cast<F*>(map.energy) + sample * map.channels + channel;
  double sums[kTile] = {};
  for (int64_t begin = 0; begin < map.spatial; begin += kTile) {
    F partial[kTile] = {};
    const int64_t end = smaller(map.spatial, begin + kTile);
    for (int64_t row = begin; row < end; ++row) add_squares(x + row * map.channels, partial, count);
    for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<double>(partial[i]);
  }
  for (int64_t i = 0; i < count; ++i) energy[i] = static_cast<F>(sums[i]);
}

template <typename T>
void gradient_of_plane(const AttentionMap& map, int64_t plane, Compute<T> scale) {
  using F = Compute<T>;
  const F factor = scale * static_cast<const F*>(map.coefficient)[plane];
  scale_run(static_cast<const T*>(map.map) + plane * map.spatial,
            static_cast<T*>(map.gradient) + plane * map.spatial, map.spatial, factor);
}

template <typename T>
void gradient_of_tile(const AttentionMap& map, int64_t unit, Compute<T> scale) {
  using F = Compute<T>;
  const int64_t sample = unit / tiles_of(map);
  const int64_t channel = unit % tiles_of(map) * kTile;
  const int64_t count = smaller(kTile, map.channels - channel);
  const F* coefficient = static_cast<const F*>(map.coefficient) + sample * map.channels + channel;
  F factors[kTile];
  for (int64_t i = 0; i < count; ++i) factors[i] = scale * coefficient[i];
  for (int64_t row = 0; row < map.spatial; ++row) {
    const int64_t offset = (sample * map.spatial + row) * map.channels + channel;
    scale_row(static_cast<const T*>(map.map) + offset, static_cast<T*>(map.gradient) + offset,
              factors, count);
  }
}

// plane(map, unit) or tile(map, unit) for every unit of every map; a thread's share is a run of
// elements over all maps, rounded to units.
template <typename Plane, typename Tile>
void visit_units(const ChannelAttentionArgs& args, const Plane& plane, const Tile& tile) {
  int64_t elements = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    elements += args.maps[i].batch * args.maps[i].channels * args.maps[i].spatial;
  }
  parallel_for(elements, elements, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (int64_t i = 0; i < args.count; ++i) {
      const AttentionMap& map = args.maps[i];
      const int64_t size = map.batch * map.channels * map.spatial;
      if (size == 0) continue;
      const double units = static_cast<double>(units_of(map));
      const auto cut = [&](int64_t position) {
        const int64_t inside = smaller(size, larger(0, position - first));
        return static_cast<int64_t>(units *
                                    (static_cast<double>(inside) / static_cast<double>(size)));
      };
      for (int64_t unit = cut(begin); unit < cut(end); ++unit) {
        if (map.channels_last) {
          tile(map, unit);
        } else {
          plane(map, unit);
        }
      }
      first += size;
    }
  });
}

// A map without space has zero energy; visit_units() passes it over.
template <typename F>
void clear_empty_maps(const ChannelAttentionArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const AttentionMap& map = args.maps[i];
    const int64_t energies = map.spatial == 0 ? map.batch * map.channels : 0;
    for (int64_t j = 0; j < energies; ++j) static_cast<F*>(map.energy)[j] = F(0);
  }
}

}  // namespace

const char* channel_attention(const ChannelAttentionArgs& args) {
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    clear_empty_maps<Compute<T>>(args);
    visit_units(
        args, [](const AttentionMap& map, int64_t unit) { energy_of_plane<T>(map, unit); },
        [](const AttentionMap& map, int64_t unit) { energy_of_tile<T>(map, unit); });
    return nullptr;
  });
}

const char* channel_attention_backward(const ChannelAttentionArgs& args) {
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    using F = Compute<T>;
    const F scale = F(2) * (args.scale ? *static_cast<const F*>(args.scale) : F(1));
    visit_units(
        args,
        [scale](const AttentionMap& map, int64_t unit) { gradient_of_plane<T>(map, unit, scale); },
        [scale](const AttentionMap& map, int64_t unit) { gradient_of_tile<T>(map, unit, scale); });
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
