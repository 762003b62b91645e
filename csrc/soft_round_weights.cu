// CUDA kernels of soft_round_weights.h, all weights in one launch: a block per row, or a warp where
// rows are short; everything is read once. The last block sums the regulariser's parts.
#include "soft_round_weights.h"

#include "common/cuda_rows.h"
#include "common/cuda_vector.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kRowBlock = 128;  // threads
constexpr int kRowWarps = kRowBlock / kWarp;

struct SoftRoundedEntry {
  SoftRoundedWeight weight;
  int64_t first_block;  // among the blocks of the launch
  int64_t first_row;    // among the rows of all launches
  bool aligned;

  HAST_HOST_DEVICE bool narrow() const { return weight.columns <= kWarpRow; }
};

// Passed by value: kernel arguments are limited to 4 KiB.
constexpr int kMaxEntries = 35;

struct SoftRoundTable {
  SoftRoundedEntry entries[kMaxEntries];
  int count;
  int64_t blocks;
  int64_t rows;  // of all launches, in the last one, which sums them; else 0
  SoftRoundWeightsArgs args;
};
static_assert(sizeof(SoftRoundTable) <= 4096, "kernel arguments are limited to 4 KiB");

template <typename F>
struct Regulariser {
  bool wanted;
  F beta, factor;

  __device__ Regulariser(const void* needed, const SoftRoundWeightsArgs& args)
      : wanted(needed != nullptr),
        beta(value(args.beta)),
        factor(value(args.regulariser_gradient)) {}

  __device__ static F value(const void* scalar) {
    return scalar ? *static_cast<const F*>(scalar) : F(0);
  }
};

// The threads of one row.
struct Lanes {
  int64_t first, step;
};

template <int kSize, typename F>
__device__ __forceinline__ double soften_row(const SoftRoundedWeight& own, int64_t row, Lanes lanes,
                                             const Regulariser<F>& regulariser) {
  const int64_t offset = row * own.columns;
  const F* __restrict__ base = static_cast<const F*>(own.base) + offset;
  const F* __restrict__ rounding = static_cast<const F*>(own.rounding) + offset;
  F* __restrict__ weight = static_cast<F*>(own.weight) + offset;
  const Levels<F> levels(own, row);
  double sum = 0.0;
  for (int64_t i = lanes.first; i < own.columns / kSize; i += lanes.step) {
    F whole[kSize], values[kSize];
    load_vector<kSize>(base + i * kSize, whole);
    load_vector<kSize>(rounding + i * kSize, values);
    F part = F(0);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const F up = RectifiedSigmoid<F>(values[k]).value();
      values[k] = levels.nearest(whole[k] + up) * levels.step;
      if (regulariser.wanted) part += undecided(up, regulariser.beta);
    }
    store_vector<kSize>(weight + i * kSize, values);
    sum += static_cast<double>(part);
  }
  return sum;
}

template <int kSize, typename F>
__device__ __forceinline__ double soften_row_backward(const SoftRoundedWeight& own, int64_t row,
                                                      Lanes lanes,
                                                      const Regulariser<F>& regulariser) {
  const int64_t offset = row * own.columns;
  const F* __restrict__ base = static_cast<const F*>(own.base) + offset;
  const F* __restrict__ rounding = static_cast<const F*>(own.rounding) + offset;
  const F* __restrict__ gradient =
      static_cast<const F*>(own.gradient) + (own.gradient ? offset : 0);
  F* __restrict__ result = static_cast<F*>(own.rounding_gradient) + offset;
  const Levels<F> levels(own, row);
  double sum = 0.0;
  for (int64_t i = lanes.first; i < own.columns / kSize; i += lanes.step) {
    F whole[kSize], values[kSize], g[kSize] = {};
    load_vector<kSize>(base + i * kSize, whole);
    load_vector<kSize>(rounding + i * kSize, values);
    if (own.gradient) load_vector<kSize>(gradient + i * kSize, g);
    F part = F(0);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const RectifiedSigmoid<F> h(values[k]);
      const F level = whole[k] + h.value();
      F change = levels.holds(level) ? g[k] * levels.step : F(0);
      part += g[k] * levels.nearest(level);
      if (regulariser.wanted)
        change += regulariser.factor * undecided_slope(h.value(), regulariser.beta);
      values[k] = carried(change, h.slope());
    }
    store_vector<kSize>(result + i * kSize, values);
    sum += static_cast<double>(part);
  }
  return sum;
}

// body(entry, row, lanes) for every row that this block has a part in; written(entry, row, sum) in
// one thread, with the sum of what the threads of the row returned.
template <typename Body, typename Written>
__device__ __forceinline__ void for_each_row(const SoftRoundTable& table, const Body& body,
                                             const Written& written) {
  for (int64_t block = blockIdx.x; block < table.blocks; block += gridDim.x) {
    int low = 0, high = table.count;  // the last entry that starts at or before the block
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (table.entries[middle].first_block <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const SoftRoundedEntry& entry = table.entries[low];
    const bool narrow = entry.narrow();
    const Lanes lanes = {threadIdx.x % (narrow ? kWarp : kRowBlock), narrow ? kWarp : kRowBlock};
    const int64_t own = block - entry.first_block;
    const int64_t row = narrow ? own * kRowWarps + threadIdx.x / kWarp : own;
    const bool exists = row < entry.weight.rows;  // the same for the whole warp
    double sum = exists ? body(entry, row, lanes) : 0.0;
    if (narrow) {
      sum = warp_sum(sum);
    } else {
      __syncthreads();  // block_sum() before
      sum = block_sum({sum, 0.0}).first;
    }
    if (exists && lanes.first == 0) written(entry, row, sum);
  }
}

template <typename F>
__global__ void __launch_bounds__(kRowBlock) soft_round(const SoftRoundTable table) {
  const Regulariser<F> regulariser(table.args.beta, table.args);
  volatile double* parts = table.args.scratch;
  for_each_row(
      table,
      [&](const SoftRoundedEntry& entry, int64_t row, Lanes lanes) {
        return entry.aligned ? soften_row<kVector<F>>(entry.weight, row, lanes, regulariser)
                             : soften_row<1>(entry.weight, row, lanes, regulariser);
      },
      [&](const SoftRoundedEntry& entry, int64_t row, double sum) {
        if (regulariser.wanted) parts[entry.first_row + row] = sum;
      });
  if (!table.rows || !is_last_block(table.args.counters, gridDim.x)) return;
  double sum = 0.0;
  for (int64_t row = threadIdx.x; row < table.rows; row += kRowBlock) sum += parts[row];
  sum = block_sum({sum, 0.0}).first;
  if (threadIdx.x == 0) *static_cast<F*>(table.args.regulariser) = static_cast<F>(sum);
}

template <typename F>
__global__ void __launch_bounds__(kRowBlock) soft_round_backward(const SoftRoundTable table) {
  const Regulariser<F> regulariser(table.args.regulariser_gradient, table.args);
  for_each_row(
      table,
      [&](const SoftRoundedEntry& entry, int64_t row, Lanes lanes) {
        return entry.aligned
                   ? soften_row_backward<kVector<F>>(entry.weight, row, lanes, regulariser)
                   : soften_row_backward<1>(entry.weight, row, lanes, regulariser);
      },
      [](const SoftRoundedEntry& entry, int64_t row, double sum) {
        static_cast<F*>(entry.weight.step_gradient)[row] = static_cast<F>(sum);
      });
}

template <typename F>
bool whole_vectors(const SoftRoundedWeight& weight) {
  const void* pointers[] = {weight.base, weight.rounding, weight.weight, weight.gradient,
                            weight.rounding_gradient};
  for (const void* pointer : pointers) {
    if (!aligned(pointer, 16)) return false;  // null is aligned
  }
  return weight.columns % kVector<F> == 0;
}

// launch(table) for every table that the weights fill.
template <typename F, typename Launch>
const char* launch_tables(const SoftRoundWeightsArgs& args, const Launch& launch) {
  int64_t rows = 0;
  for (int64_t next = 0; next < args.count;) {
    SoftRoundTable table = {};
    table.args = args;
    for (; next < args.count && table.count < kMaxEntries; ++next) {
      SoftRoundedEntry& entry = table.entries[table.count++];
      entry.weight = args.weights[next];
      entry.first_block = table.blocks;
      entry.first_row = rows;
      entry.aligned = whole_vectors<F>(entry.weight);
      rows += entry.weight.rows;
      table.blocks += ceil_div(entry.weight.rows, entry.narrow() ? kRowWarps : 1);
    }
    if (args.beta && next == args.count) table.rows = rows;
    launch(table, dim3(clamped(table.blocks, kMaxGridX)));
    if (const char* error = launch_error()) return error;
  }
  return nullptr;
}

}  // namespace

const char* soft_round_weights(const SoftRoundWeightsArgs& args) {
  return on_device(args.device, [&] {
    return visit_compute_type(args.dtype, [&](auto element) {
      using F = decltype(element);
      return launch_tables<F>(args, [&](const SoftRoundTable& table, dim3 blocks) {
        HAST_LAUNCH(soft_round<F>, blocks, dim3(kRowBlock), 0, args.stream, table);
      });
    });
  });
}

const char* soft_round_weights_backward(const SoftRoundWeightsArgs& args) {
  return on_device(args.device, [&] {
    return visit_compute_type(args.dtype, [&](auto element) {
      using F = decltype(element);
      return launch_tables<F>(args, [&](const SoftRoundTable& table, dim3 blocks) {
        HAST_LAUNCH(soft_round_backward<F>, blocks, dim3(kRowBlock), 0, args.stream, table);
      });
    });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
