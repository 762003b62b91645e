// The skeleton of the BatchNorm kernels: go once over a [outer, channels, inner] tensor, do
// something to every element, and bring two sums per channel home in the same launch.
//
// Channels are few (16 in a small ResNet), so a channel is split over many blocks. Each leaves its
// sums in scratch, as doubles; the last block of a channel adds them up, in a fixed order, and
// finishes the channel. Planes (inner > 1) take a block per channel and split, with threads x
// along the plane and y along the images. Channels-last data takes a block per tile of channels and
// split, with threads x along the channels and y along the rows.
//
// A Body is a POD with:  Element, F, Setup, Channel;
//   Setup setup() const, once per thread;  Channel channel(int64_t) const, once per channel;
//   apply<kSize, kChannels>(offset, plane, setup, channels, first, second): kSize elements from
//     offset on, adding to the sums of their one channel (kChannels 1) or of kSize channels;
//     `plane` is the index in [images, channels] of the first one;
//   bool sums() const;  uint32_t* counters() const;  double* scratch() const;
//   bool planes() const: whether apply() looks at `plane`;
//   const Element* first_read() const: a tensor that apply() reads, or null;
//   finish(channel, first, second)
// and  static constexpr int kBlocks, for which an SM must have registers.
#pragma once

#include "common/cuda_reduce.h"
#include "common/cuda_vector.h"

namespace hast {
inline namespace HAST_BACKEND {

// At most, per block of channels-last data. More would leave more to the last block of a tile,
// which adds the splits of all its channels up alone; these are a line of memory in float32.
constexpr int kTileChannels = 32;

struct ChannelGrid {
  int64_t outer, channels, inner;
  int64_t per_image;  // outer indices of one image
  int64_t groups;     // sums per channel: one, or one per image

  ChannelGrid(int64_t outer_size, int64_t channel_count, int64_t inner_size, int64_t images = 0,
              bool sum_per_image = false)
      : outer(outer_size),
        channels(channel_count),
        inner(inner_size),
        per_image(images == 0 ? outer_size : outer_size / images),
        groups(sum_per_image ? images : 1) {
    if (images != 0 || channels != 1) return;
    inner *= outer;  // one channel is one plane, whatever its layout was called
    outer = per_image = 1;
  }

  __host__ __device__ bool channels_last() const { return inner == 1 && channels > 1; }

  // How many blocks may share a channel: enough for a few thousand elements each, no more than fill
  // a GPU. A function of the sizes alone: scratch is allocated before pointers and types are known.
  int64_t max_splits() const {
    const int64_t tiles = channels_last() ? ceil_div(channels, kTileChannels) : channels;
    const int64_t together = channels_last() ? smaller(channels, kTileChannels) : 1;
    const int64_t wanted = ceil_div(outer / groups * inner, 4096 / together);
    // Channels-last blocks run about four to an SM, so these are all at once.
    const int64_t blocks = channels_last() ? 512 : 2048;
    return larger(1, smaller(wanted, ceil_div(blocks, tiles * groups)));
  }

  int64_t scratch() const { return 2 * channels * groups * max_splits(); }
};

// The sums of every `step`th split, `stride` pairs apart. Each load is a trip to L2: four at a
// time.
__device__ __forceinline__ DoublePair add_splits(const volatile double* partial, int64_t stride,
                                                 unsigned splits, unsigned first, unsigned step) {
  DoublePair sum = {0.0, 0.0};
#pragma unroll 4
  for (unsigned split = first; split < splits; split += step) {
    sum.first += partial[2 * stride * split];
    sum.second += partial[2 * stride * split + 1];
  }
  return sum;
}

// Grid: x the channel, y the split; splits are plane_splits along a plane times the rest along the
// images.
template <typename Body, int kSize>
__global__ void __launch_bounds__(kBlock, Body::kBlocks)
    sum_planes(Body body, ChannelGrid sizes, unsigned plane_splits) {
  using F = typename Body::F;
  const int64_t vectors = sizes.inner / kSize;
  const unsigned image_splits = gridDim.y / plane_splits;
  const int64_t image_step = static_cast<int64_t>(image_splits) * blockDim.y;
  const int64_t step = static_cast<int64_t>(plane_splits) * blockDim.x;
  const int64_t start = static_cast<int64_t>(blockIdx.y % plane_splits) * blockDim.x + threadIdx.x;
  const int64_t c = blockIdx.x;
  int64_t image = static_cast<int64_t>(blockIdx.y / plane_splits) * blockDim.y + threadIdx.y;
  if (image < sizes.outer && start < vectors) {
    prefetch(body.first_read(), (image * sizes.channels + c) * sizes.inner + start * kSize);
  }
  const typename Body::Setup setup = body.setup();
  const typename Body::Channel channel[1] = {body.channel(c)};
  F first[1] = {F(0)}, second[1] = {F(0)};
  for (; image < sizes.outer; image += image_step) {
    const int64_t plane = image * sizes.channels + c;
    for (int64_t i = start; i < vectors; i += step) {
      body.template apply<kSize>(plane * sizes.inner + i * kSize, plane, setup, channel, first,
                                 second);
    }
  }
  if (!body.sums()) return;
  volatile double* partial = body.scratch() + 2 * c * gridDim.y;
  DoublePair sum = block_sum({static_cast<double>(first[0]), static_cast<double>(second[0])});
  if (thread_rank() == 0) {
    volatile double* own = partial + 2 * static_cast<int64_t>(blockIdx.y);
    own[0] = sum.first;
    own[1] = sum.second;
  }
  if (!is_last_block(body.counters() + c, gridDim.y)) return;
  sum = block_sum(add_splits(partial, 1, gridDim.y, thread_rank(), kBlock));
  if (thread_rank() == 0) body.finish(c, sum.first, sum.second);
}

// Sums over the rows of a block, and over the splits: threads of one column group add up.
struct TileSums {
  DoublePair warps[kBlock / kWarp][kTileChannels];
};

// Grid: x the tile of channels (of every group of rows), y the split along the rows.
template <typename Body, int kSize>
__global__ void __launch_bounds__(kBlock, Body::kBlocks) sum_rows(Body body, ChannelGrid sizes) {
  using F = typename Body::F;
  __shared__ TileSums shared;
  const unsigned width = blockDim.x * kSize;  // channels of the tile, a power of two
  const unsigned tiles = static_cast<unsigned>(ceil_div(sizes.channels, width));
  const int64_t tile = static_cast<int64_t>(blockIdx.x % tiles) * width;
  const int64_t group = blockIdx.x / tiles;
  const int64_t rows = sizes.outer / sizes.groups;
  const int64_t c = tile + static_cast<int64_t>(threadIdx.x) * kSize;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  F first[kSize], second[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) first[i] = second[i] = F(0);
  if (c < sizes.channels) {
    int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
    if (row < rows) prefetch(body.first_read(), (group * rows + row) * sizes.channels + c);
    const typename Body::Setup setup = body.setup();
    typename Body::Channel channel[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) channel[i] = body.channel(c + i);
    for (; row < rows; row += step) {
      const int64_t at = group * rows + row;
      // The division costs more than the rest of a row: only where the body looks at its plane.
      const int64_t image = body.planes() ? at / sizes.per_image : 0;
      body.template apply<kSize>(at * sizes.channels + c, image * sizes.channels + c, setup,
                                 channel, first, second);
    }
  }
  if (!body.sums()) return;

  // Lanes of a warp that hold the same channels, then the warps.
  const unsigned rank = thread_rank();
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    const DoublePair sum = {warp_sum(static_cast<double>(first[i]), blockDim.x),
                            warp_sum(static_cast<double>(second[i]), blockDim.x)};
    if (rank % kWarp < blockDim.x) shared.warps[rank / kWarp][threadIdx.x * kSize + i] = sum;
  }
  __syncthreads();
  const bool owner = rank < width && tile + rank < sizes.channels;
  const int64_t first_plane = group * sizes.channels + tile;
  // Splits apart, channels side by side: neighbouring threads read neighbouring pairs.
  const int64_t planes = sizes.channels * sizes.groups;
  volatile double* partial = body.scratch() + 2 * first_plane;
  if (owner) {
    DoublePair sum = shared.warps[0][rank];
    for (unsigned warp = 1; warp < kBlock / kWarp; ++warp) {
      sum.first += shared.warps[warp][rank].first;
      sum.second += shared.warps[warp][rank].second;
    }
    volatile double* own = partial + 2 * (planes * blockIdx.y + rank);
    own[0] = sum.first;
    own[1] = sum.second;
  }
  if (!is_last_block(body.counters() + blockIdx.x, gridDim.y)) return;

  // As many threads per channel as there are.
  const auto shares = static_cast<unsigned>(smaller(kBlock / width, kBlock / kWarp));
  const unsigned mine = rank % width, share = rank / width;
  if (share < shares && tile + mine < sizes.channels) {
    shared.warps[share][mine] = add_splits(partial + 2 * mine, planes, gridDim.y, share, shares);
  }
  __syncthreads();
  if (owner) {
    DoublePair sum = shared.warps[0][rank];
    for (unsigned i = 1; i < shares; ++i) {
      sum.first += shared.warps[i][rank].first;
      sum.second += shared.warps[i][rank].second;
    }
    body.finish(first_plane + rank, sum.first, sum.second);
  }
}

template <typename Body, int kSize>
const char* launch_sum_planes(const Body& body, const ChannelGrid& sizes, void* stream) {
  const int64_t vectors = sizes.inner / kSize;
  const unsigned x = power_of_two_covering(vectors, kBlock);
  const unsigned y = kBlock / x;
  const int64_t splits = sizes.max_splits();
  const int64_t image_splits = smaller(ceil_div(sizes.outer, y), splits);
  const int64_t plane_splits = larger(1, smaller(ceil_div(vectors, x), splits / image_splits));
  const dim3 grid(static_cast<unsigned>(sizes.channels),
                  static_cast<unsigned>(image_splits * plane_splits));
  if (const char* error = grid_error(sizes.channels)) return error;
  const auto kernel = sum_planes<Body, kSize>;
  HAST_LAUNCH(kernel, grid, dim3(x, y), 0, stream, body, sizes,
              static_cast<unsigned>(plane_splits));
  return launch_error();
}

template <typename Body, int kSize>
const char* launch_sum_rows(const Body& body, const ChannelGrid& sizes, void* stream) {
  const unsigned x = power_of_two_covering(ceil_div(sizes.channels, kSize), kTileChannels / kSize);
  const unsigned y = kBlock / x;
  const int64_t splits = smaller(sizes.max_splits(), ceil_div(sizes.outer / sizes.groups, y));
  const int64_t tiles = ceil_div(sizes.channels, x * kSize) * sizes.groups;
  if (const char* error = grid_error(tiles)) return error;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(splits));
  const auto kernel = sum_rows<Body, kSize>;
  HAST_LAUNCH(kernel, grid, dim3(x, y), 0, stream, body, sizes);
  return launch_error();
}

template <typename Body>
const char* launch_channel_sums(const Body& body, const ChannelGrid& sizes, bool pointers_aligned,
                                void* stream) {
  using T = typename Body::Element;
  constexpr int kWide = kVector<T>, kNarrow = kChannelVector<T>;
  if (sizes.channels_last()) {
    return pointers_aligned && sizes.channels % kNarrow == 0
               ? launch_sum_rows<Body, kNarrow>(body, sizes, stream)
               : launch_sum_rows<Body, 1>(body, sizes, stream);
  }
  if (pointers_aligned && sizes.inner % kWide == 0) {
    return launch_sum_planes<Body, kWide>(body, sizes, stream);
  }
  // Half a vector of a half type: planes of 14 x 14 are no multiple of a whole one.
  if constexpr (kNarrow < kWide) {
    if (pointers_aligned && sizes.inner % kNarrow == 0) {
      return launch_sum_planes<Body, kNarrow>(body, sizes, stream);
    }
  }
  return launch_sum_planes<Body, 1>(body, sizes, stream);
}

}  // namespace HAST_BACKEND
}  // namespace hast
