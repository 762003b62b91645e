// CUDA kernels of channel_attention.h, every map of a network in one launch: one read per map
// forward, one read and one write backward.
//
// Planes go to a warp each, or to a block each where they are large. A channels-last image goes to
// blocks of 32 channels (a whole 128-byte line of fp32), threads y down its pixels.
#include "channel_attention.h"

#include "common/cuda_reduce.h"
#include "common/cuda_vector.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kTile = 32;              // channels of a channels-last block
constexpr int64_t kLargePlane = 8192;  // elements from which a plane gets a block of its own
constexpr int kWarps = kBlock / kWarp;
constexpr int kTogether = 4;  // vectors that a thread loads before it stores

enum class Shape : int { kWarpPerPlane, kBlockPerPlane, kChannelsLast };

struct MapEntry {
  AttentionMap map;
  int64_t first_block;
  Shape shape;
  bool vectors;  // 128-bit access fits pointers and sizes
};

constexpr int kMaxMaps = 44;

struct MapTable {
  MapEntry entries[kMaxMaps];
  int count;
  int64_t blocks;
  const void* scale;
};
static_assert(sizeof(MapTable) <= 4096, "kernel arguments are limited to 4 KiB");

__device__ __forceinline__ int find_entry(const MapTable& table, int64_t block) {
  int low = 0, high = table.count;  // the last entry that starts at or before the block
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.entries[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Sum of squares of vectors start, start + step, ... of a run of elements.
template <int kSize, typename T>
__device__ __forceinline__ Compute<T> sum_squares(const T* __restrict__ x, int64_t size,
                                                  int64_t start, int64_t step) {
  using F = Compute<T>;
  F sum = F(0);
#pragma unroll 4
  for (int64_t i = start; i < size / kSize; i += step) {
    F values[kSize];
    load_vector<kSize>(x + i * kSize, values);
#pragma unroll
    for (int k = 0; k < kSize; ++k) sum += values[k] * values[k];
  }
  return sum;
}

// Vectors start, start + step, ... of `count`, `stride` elements apart, times their factors. No
// load moves across a store that may hit the same tensor, so several come before all of their
// stores.
template <int kSize, typename T>
__device__ __forceinline__ void scale_vectors(const T* x, T* dx, int64_t count, int64_t start,
                                              int64_t step, int64_t stride,
                                              const Compute<T> (&factors)[kSize]) {
  for (int64_t first = start; first < count; first += kTogether * step) {
    Packed<T, kSize> packed[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t at = first + i * step;
      if (at < count) packed[i] = load_packed<kSize>(x + at * stride);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t at = first + i * step;
      if (at >= count) break;
      Compute<T> values[kSize];
      unpack(packed[i], values);
#pragma unroll
      for (int k = 0; k < kSize; ++k) values[k] *= factors[k];
      store_vector_whole<kSize>(dx + at * stride, values);
    }
  }
}

template <int kSize, typename T>
__device__ __forceinline__ void plane_energy(const AttentionMap& map, Shape shape, int64_t unit) {
  using F = Compute<T>;
  const bool whole_block = shape == Shape::kBlockPerPlane;
  const int64_t plane = whole_block ? unit : unit * kWarps + threadIdx.x / kWarp;
  if (plane >= map.batch * map.channels) return;  // all lanes of the warp
  const T* x = static_cast<const T*>(map.map) + plane * map.spatial;
  F* energy = static_cast<F*>(map.energy) + plane;
  if (whole_block) {
    const F sum = sum_squares<kSize>(x, map.spatial, threadIdx.x, kBlock);
    const DoublePair total = block_sum({static_cast<double>(sum), 0.0});
    if (threadIdx.x == 0) *energy = static_cast<F>(total.first);
  } else {
    const F sum = warp_sum(sum_squares<kSize>(x, map.spatial, threadIdx.x % kWarp, kWarp));
    if (threadIdx.x % kWarp == 0) *energy = sum;
  }
}

template <int kSize, typename T>
__device__ __forceinline__ void plane_gradient(const AttentionMap& map, Shape shape, int64_t unit,
                                               Compute<T> scale) {
  const bool whole_block = shape == Shape::kBlockPerPlane;
  const int64_t plane = whole_block ? unit : unit * kWarps + threadIdx.x / kWarp;
  if (plane >= map.batch * map.channels) return;
  const T* x = static_cast<const T*>(map.map) + plane * map.spatial;
  T* dx = static_cast<T*>(map.gradient) + plane * map.spatial;
  Compute<T> factors[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    factors[k] = scale * static_cast<const Compute<T>*>(map.coefficient)[plane];
  }
  const int64_t start = whole_block ? threadIdx.x : threadIdx.x % kWarp;
  scale_vectors<kSize>(x, dx, map.spatial / kSize, start, whole_block ? kBlock : kWarp, kSize,
                       factors);
}

// Position of a thread in a channels-last block: kSize channels of one image, pixels from `pixel`.
template <int kSize>
struct TilePosition {
  static constexpr int kColumns = kTile / kSize;
  static constexpr int kRows = kBlock / kColumns;
  int64_t sample, channel;
  int column, pixel;
  bool inside;

  __device__ TilePosition(const AttentionMap& map, int64_t unit) {
    const int64_t tiles = ceil_div(map.channels, kTile);
    column = static_cast<int>(threadIdx.x) % kColumns;
    pixel = static_cast<int>(threadIdx.x) / kColumns;
    sample = unit / tiles;
    channel = unit % tiles * kTile + column * kSize;
    inside = channel < map.channels;
  }

  __device__ int64_t offset(const AttentionMap& map, int64_t row) const {
    return (sample * map.spatial + row) * map.channels + channel;
  }
};

template <int kSize, typename T>
__device__ __forceinline__ void tile_energy(const AttentionMap& map, int64_t unit) {
  using F = Compute<T>;
  using Position = TilePosition<kSize>;
  __shared__ F shared[kWarps][kTile];
  const Position at(map, unit);
  F sums[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k) sums[k] = F(0);
  if (at.inside) {
#pragma unroll 4
    for (int64_t row = at.pixel; row < map.spatial; row += Position::kRows) {
      F values[kSize];
      load_vector<kSize>(static_cast<const T*>(map.map) + at.offset(map, row), values);
#pragma unroll
      for (int k = 0; k < kSize; ++k) sums[k] += values[k] * values[k];
    }
  }
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    const F sum = warp_sum(sums[k], Position::kColumns);
    if (threadIdx.x % kWarp < Position::kColumns) {
      shared[threadIdx.x / kWarp][at.column * kSize + k] = sum;
    }
  }
  __syncthreads();
  const int64_t channel = unit % ceil_div(map.channels, kTile) * kTile + threadIdx.x;
  if (threadIdx.x < kTile && channel < map.channels) {
    F sum = shared[0][threadIdx.x];
    for (int warp = 1; warp < kWarps; ++warp) sum += shared[warp][threadIdx.x];
    static_cast<F*>(map.energy)[at.sample * map.channels + channel] = sum;
  }
}

template <int kSize, typename T>
__device__ __forceinline__ void tile_gradient(const AttentionMap& map, int64_t unit,
                                              Compute<T> scale) {
  using F = Compute<T>;
  using Position = TilePosition<kSize>;
  const Position at(map, unit);
  if (!at.inside) return;
  const F* coefficient = static_cast<const F*>(map.coefficient) + at.sample * map.channels;
  F factors[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k) factors[k] = scale * coefficient[at.channel + k];
  const int64_t offset = at.offset(map, 0);
  scale_vectors<kSize>(static_cast<const T*>(map.map) + offset,
                       static_cast<T*>(map.gradient) + offset, map.spatial, at.pixel,
                       Position::kRows, map.channels, factors);
}

template <typename T>
__global__ void __launch_bounds__(kBlock) energies(const MapTable table) {
  const int64_t block = blockIdx.x;
  const MapEntry& entry = table.entries[find_entry(table, block)];
  const int64_t unit = block - entry.first_block;
  if (entry.shape == Shape::kChannelsLast) {
    if (entry.vectors) {
      tile_energy<kVector<T>, T>(entry.map, unit);
    } else {
      tile_energy<1, T>(entry.map, unit);
    }
  } else if (entry.vectors) {
    plane_energy<kVector<T>, T>(entry.map, entry.shape, unit);
  } else {
    plane_energy<1, T>(entry.map, entry.shape, unit);
  }
}

template <typename T>
__global__ void __launch_bounds__(kBlock) gradients(const MapTable table) {
  using F = Compute<T>;
  const int64_t block = blockIdx.x;
  const MapEntry& entry = table.entries[find_entry(table, block)];
  const int64_t unit = block - entry.first_block;
  const F scale = F(2) * (table.scale ? *static_cast<const F*>(table.scale) : F(1));
  if (entry.shape == Shape::kChannelsLast) {
    if (entry.vectors) {
      tile_gradient<kVector<T>, T>(entry.map, unit, scale);
    } else {
      tile_gradient<1, T>(entry.map, unit, scale);
    }
  } else if (entry.vectors) {
    plane_gradient<kVector<T>, T>(entry.map, entry.shape, unit, scale);
  } else {
    plane_gradient<1, T>(entry.map, entry.shape, unit, scale);
  }
}

template <typename T>
MapEntry entry_of(const AttentionMap& map) {
  MapEntry entry = {};
  entry.map = map;
  entry.shape = map.channels_last            ? Shape::kChannelsLast
                : map.spatial >= kLargePlane ? Shape::kBlockPerPlane
                                             : Shape::kWarpPerPlane;
  const int64_t run = map.channels_last ? map.channels : map.spatial;
  entry.vectors = run % kVector<T> == 0 && aligned(map.map, 16) && aligned(map.gradient, 16);
  return entry;
}

int64_t blocks_of(const MapEntry& entry) {
  const AttentionMap& map = entry.map;
  switch (entry.shape) {
    case Shape::kWarpPerPlane:
      return ceil_div(map.batch * map.channels, kWarps);
    case Shape::kBlockPerPlane:
      return map.batch * map.channels;
    case Shape::kChannelsLast:
      return map.batch * ceil_div(map.channels, kTile);
  }
  return 0;
}

template <typename T, typename Kernel>
const char* launch_maps(const ChannelAttentionArgs& args, const Kernel& kernel) {
  int64_t next = 0;
  while (next < args.count) {
    MapTable table = {};
    table.scale = args.scale;
    for (; next < args.count && table.count < kMaxMaps; ++next) {
      MapEntry entry = entry_of<T>(args.maps[next]);
      const int64_t blocks = blocks_of(entry);
      if (blocks == 0) continue;
      entry.first_block = table.blocks;
      table.entries[table.count++] = entry;
      table.blocks += blocks;
    }
    if (table.blocks == 0) break;
    if (const char* error = grid_error(table.blocks)) return error;
    HAST_LAUNCH(kernel, dim3(static_cast<unsigned>(table.blocks)), dim3(kBlock), 0, args.stream,
                table);
    if (const char* error = launch_error()) return error;
  }
  return nullptr;
}

}  // namespace

const char* channel_attention(const ChannelAttentionArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return launch_maps<T>(args, energies<T>);
    });
  });
}

const char* channel_attention_backward(const ChannelAttentionArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return launch_maps<T>(args, gradients<T>);
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
