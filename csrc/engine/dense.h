// Convolution in tiles of pixels and blocks of 16 outputs: no matrix of windows, no scratch.
#pragma once

#include <algorithm>

#include "engine/finish.h"

namespace hast::engine {
inline namespace HAST_ENGINE_ISA {

// Sums over codes of kP neighbouring outputs, kB blocks from `block` on.
template <typename D, int kP, int kB>
inline void codes_tile(const Dense& d, int64_t block, int64_t y, int64_t x) {
  using Weight = typename D::Weight;
  const int64_t pixel = d.stride_x * d.in.pixel;
  const uint8_t* in = d.in.codes + y * d.stride_y * d.in.row + x * pixel;
  const Weight* w = static_cast<const Weight*>(d.weights) + block * d.block;
  typename D::Sum sums[kP][kB];
  for (auto& own : sums)
    for (auto& sum : own) sum = D::zero();
  for (int64_t r = 0; r < d.run_count; ++r) {
    const uint8_t* from = in + d.runs[r].offset;
    int64_t left = d.runs[r].steps;
    do {
      const int64_t steps = D::kWidens ? std::min(left, d.flush) : left;
      for (int64_t s = 0; s < steps; ++s) {
        typename D::Weights weights[kB];
        for (int b = 0; b < kB; ++b) weights[b] = D::weights(w + b * d.block);
#pragma GCC unroll 8
        for (int p = 0; p < kP; ++p) {
          const auto input = D::input(from + p * pixel);
          for (int b = 0; b < kB; ++b) D::step(sums[p][b], weights[b], input);
        }
        w += 16 * D::kBytes;
        from += D::kBytes;
      }
      if constexpr (D::kWidens)
        for (auto& own : sums)
          for (auto& sum : own) D::flush(sum);
      left -= steps;
    } while (left > 0);
  }
  for (int b = 0; b < kB; ++b) {
    I16 totals[kP];
#pragma GCC unroll 8
    for (int p = 0; p < kP; ++p) totals[p] = D::total(sums[p][b]);
    finish_whole(d.finish, totals, (block + b) * kBlock, y, x);
  }
}

// The same for float inputs, one a step.
template <int kP, int kB>
inline void floats_tile(const Dense& d, int64_t block, int64_t y, int64_t x) {
  const int64_t pixel = d.stride_x * d.in.pixel;
  const float* in = d.in.floats + y * d.stride_y * d.in.row + x * pixel;
  const float* w = static_cast<const float*>(d.weights) + block * d.block;
  F16 sums[kP][kB];
  for (auto& own : sums)
    for (auto& sum : own) sum = set1(0.0f);
  for (int64_t r = 0; r < d.run_count; ++r) {
    const float* from = in + d.runs[r].offset;
    for (int64_t s = 0; s < d.runs[r].steps; ++s) {
      F16 weights[kB];
      for (int b = 0; b < kB; ++b) weights[b] = load(w + b * d.block);
#pragma GCC unroll 8
      for (int p = 0; p < kP; ++p) {
        const F16 input = set1(from[p * pixel]);
        for (int b = 0; b < kB; ++b) sums[p][b] = fma(input, weights[b], sums[p][b]);
      }
      w += 16;
      ++from;
    }
  }
  for (int b = 0; b < kB; ++b) {
    F16 totals[kP];
#pragma GCC unroll 8
    for (int p = 0; p < kP; ++p) totals[p] = sums[p][b];
    finish(d.finish, totals, (block + b) * kBlock, y, x);
  }
}

using Tile = void (*)(const Dense&, int64_t block, int64_t y, int64_t x);

template <typename D, int kB>
struct CodesTiles {
  template <int kP>
  static void run(const Dense& d, int64_t block, int64_t y, int64_t x) {
    codes_tile<D, kP, kB>(d, block, y, x);
  }
};

template <int kB>
struct FloatsTiles {
  template <int kP>
  static void run(const Dense& d, int64_t block, int64_t y, int64_t x) {
    floats_tile<kP, kB>(d, block, y, x);
  }
};

// One row of a block group, in tiles of nearly equal width.
template <typename Tiles, int kPixels>
inline void row_of_tiles(const Dense& d, int64_t block, int64_t y) {
  static_assert(kPixels <= 8);
  constexpr Tile kTiles[9] = {nullptr,
                              Tiles::template run<1>,
                              Tiles::template run<std::min(2, kPixels)>,
                              Tiles::template run<std::min(3, kPixels)>,
                              Tiles::template run<std::min(4, kPixels)>,
                              Tiles::template run<std::min(5, kPixels)>,
                              Tiles::template run<std::min(6, kPixels)>,
                              Tiles::template run<std::min(7, kPixels)>,
                              Tiles::template run<std::min(8, kPixels)>};
  const int64_t tiles = (d.width + kPixels - 1) / kPixels;
  const int64_t narrow = d.width / tiles, wider = d.width % tiles;
  int64_t x = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t pixels = narrow + (t < wider ? 1 : 0);
    kTiles[pixels](d, block, y, x);
    x += pixels;
  }
}

// Weights that stay in the nearest cache are gone through once per row, larger ones once per share.
constexpr int64_t kNear = 24576;

template <typename Rows>
inline void dense_rows(const Share& share, int64_t weight_bytes, int64_t group, const Rows& rows) {
  const bool rows_outside = weight_bytes * (share.block_end - share.block_begin) <= kNear;
  auto blocks_of = [&](int64_t y, int64_t block) {
    if (group > 1 && block + group <= share.block_end) {
      rows(y, block, std::true_type());
      return block + group;
    }
    rows(y, block, std::false_type());
    return block + 1;
  };
  if (rows_outside) {
    for (int64_t y = share.row_begin; y < share.row_end; ++y)
      for (int64_t block = share.block_begin; block < share.block_end;) block = blocks_of(y, block);
    return;
  }
  for (int64_t block = share.block_begin; block < share.block_end;) {
    int64_t next = block;
    for (int64_t y = share.row_begin; y < share.row_end; ++y) next = blocks_of(y, block);
    block = std::max(next, block + 1);
  }
}

template <typename D>
inline void dense_codes_by(const Dense& d, const Share& share) {
  const int64_t bytes = d.block * static_cast<int64_t>(sizeof(typename D::Weight));
  dense_rows(share, bytes, D::kBlocks, [&](int64_t y, int64_t block, auto whole) {
    constexpr int kB = decltype(whole)::value ? D::kBlocks : 1;
    row_of_tiles<CodesTiles<D, kB>, D::kPixels>(d, block, y);
  });
}

inline void dense_floats(const Dense& d, const Share& share) {
  dense_rows(share, d.block * 4, kFloatBlocks, [&](int64_t y, int64_t block, auto whole) {
    constexpr int kB = decltype(whole)::value ? kFloatBlocks : 1;
    row_of_tiles<FloatsTiles<kB>, kFloatPixels>(d, block, y);
  });
}

}  // namespace HAST_ENGINE_ISA
}  // namespace hast::engine
