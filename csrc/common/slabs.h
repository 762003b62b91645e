// Two sums per channel of a [outer, channels, inner] tensor on the CPU, in an order fixed by the
// sizes: slabs of outer indices, each with its own double sums in scratch, added up at the end.
#pragma once

#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {

// Channels-last data: channels processed side by side, and rows summed in fp before the sums go to
// double.
constexpr int kTileChannels = 128;
constexpr int64_t kTileRows = 32;
// Planes: elements summed in fp before the sum goes to double.
constexpr int64_t kSegment = 1024;

struct Slabs {
  int64_t rows;    // outer indices per slab
  int64_t count;   // slabs
  int64_t groups;  // of channels, so that a single image is shared out too

  Slabs(int64_t outer, int64_t channels, int64_t inner) {
    const int64_t elements = outer * channels * inner;
    const int64_t wanted = larger(1, smaller(64, elements / kGrain));
    rows = ceil_div(outer, smaller(outer, wanted));
    count = ceil_div(outer, rows);
    const int64_t units = inner == 1 ? ceil_div(channels, kTileChannels) : channels;
    groups = smaller(units, ceil_div(wanted, count));
  }
};

// visit(slab, first_row, last_row, first_channel, last_channel) for every slab and channel group.
template <typename Visit>
void visit_by_channel(int64_t outer, int64_t channels, int64_t inner, const Visit& visit) {
  const Slabs slabs(outer, channels, inner);
  const int64_t unit = inner == 1 ? kTileChannels : 1;
  const int64_t units = ceil_div(channels, unit);
  parallel_for(slabs.count * slabs.groups, outer * channels * inner,
               [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t slab = item / slabs.groups;
                   const int64_t group = item % slabs.groups;
                   visit(slab, slab * slabs.rows, smaller(outer, (slab + 1) * slabs.rows),
                         units * group / slabs.groups * unit,
                         smaller(channels, units * (group + 1) / slabs.groups * unit));
                 }
               });
}

// visit(first_row, last_row, first_channel, last_channel, sums) adds to sums[2 * channel + {0, 1}]
// of its channels; finish(channel, first_sum, second_sum) follows.
template <typename Visit, typename Finish>
void sum_by_channel(int64_t outer, int64_t channels, int64_t inner, double* scratch,
                    const Visit& visit, const Finish& finish) {
  const auto visit_slab = [&](int64_t slab, int64_t first_row, int64_t last_row, int64_t first,
                              int64_t last) {
    double* sums = scratch + 2 * channels * slab;
    for (int64_t i = 2 * first; i < 2 * last; ++i) sums[i] = 0.0;
    visit(first_row, last_row, first, last, sums);
  };
  visit_by_channel(outer, channels, inner, visit_slab);
  const int64_t count = Slabs(outer, channels, inner).count;
  for (int64_t channel = 0; channel < channels; ++channel) {
    double first = 0.0, second = 0.0;
    for (int64_t slab = 0; slab < count; ++slab) {
      first += scratch[2 * (channels * slab + channel)];
      second += scratch[2 * (channels * slab + channel) + 1];
    }
    finish(channel, first, second);
  }
}

}  // namespace HAST_BACKEND
}  // namespace hast
