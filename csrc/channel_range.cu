// CUDA kernels of channel_range.h. The range of an activation takes one read of x: every block
// leaves its minimum and maximum in scratch, the last one to finish takes the step. Weights: a
// block per row of any tensor, all tensors in one launch; the second read of a row hits the cache.
// A row whose grid is given is read once.
#include "channel_range.h"

#include "common/cuda_reduce.h"
#include "common/cuda_vector.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kRowBlock = 128;  // threads per weight row

// NaN in both ends or in none.
template <typename F>
__device__ __forceinline__ void merge(Extremes<F>& extremes, F low, F high) {
  extremes.low = low < extremes.low ? low : extremes.low;
  extremes.high = high > extremes.high ? high : extremes.high;
  extremes.nan = extremes.nan || low != low;
}

// In every thread of the block.
template <typename F>
__device__ __forceinline__ Extremes<F> block_extremes(Extremes<F> value) {
  __shared__ F lows[kWarp], highs[kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const F low = __shfl_xor_sync(kFullMask, value.low, offset);
    const F high = __shfl_xor_sync(kFullMask, value.high, offset);
    merge(value, low, high);
  }
  value.nan = __ballot_sync(kFullMask, value.nan) != 0;
  __syncthreads();  // the previous call's values have been read
  if (threadIdx.x % kWarp == 0) {
    lows[threadIdx.x / kWarp] = value.minimum();
    highs[threadIdx.x / kWarp] = value.maximum();
  }
  __syncthreads();
  Extremes<F> all;
  for (unsigned i = 0; i < blockDim.x / kWarp; ++i) merge(all, lows[i], highs[i]);
  return all;
}

// Elements [start, start + step, ...) of x, whole vectors first.
template <int kSize, typename T, typename F>
__device__ __forceinline__ Extremes<F> find_extremes(const T* __restrict__ x, int64_t size,
                                                     int64_t start, int64_t step) {
  Extremes<F> extremes;
  const int64_t vectors = size / kSize;
#pragma unroll 4
  for (int64_t i = start; i < vectors; i += step) {
    F values[kSize];
    load_vector<kSize>(x + i * kSize, values);
#pragma unroll
    for (int k = 0; k < kSize; ++k) extremes.add(values[k]);
  }
  for (int64_t i = vectors * kSize + start; i < size; i += step) extremes.add(to_compute(x[i]));
  return extremes;
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kBlock) observe(UpdateRangeArgs args) {
  using F = Compute<T>;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  Extremes<F> extremes = block_extremes(
      find_extremes<kSize, T, F>(static_cast<const T*>(args.x), args.size, start, step));
  volatile F* partial = static_cast<F*>(args.scratch);
  if (threadIdx.x == 0) {
    volatile F* own = partial + 2 * static_cast<int64_t>(blockIdx.x);
    own[0] = extremes.minimum();
    own[1] = extremes.maximum();
  }
  if (!is_last_block(args.counters, gridDim.x)) return;
  Extremes<F> all;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
    merge<F>(all, partial[2 * i], partial[2 * i + 1]);
  }
  all = block_extremes(all);
  if (threadIdx.x == 0) {
    const ActivationRange<F> act = activation_range<F>(args.activation);
    step_range(static_cast<F*>(args.state), act(all.minimum()), act(all.maximum()),
               static_cast<F>(args.beta), static_cast<F>(1.0 - args.beta), args.released);
  }
}

template <typename T, int kSize>
const char* launch_observe(const UpdateRangeArgs& args) {
  const auto kernel = observe<T, kSize>;
  const auto blocks = static_cast<unsigned>(range_scratch(args.size) / 2);
  HAST_LAUNCH(kernel, dim3(blocks), dim3(kBlock), 0, args.stream, args);
  return launch_error();
}

struct WeightEntry {
  const void* weight;
  void* output;
  const void* range;  // lower ends of all rows, then upper ends; or null
  int64_t columns;
  int64_t first_row;  // among the rows of the launch
  int bits;
  bool aligned;
};

// Passed by value: kernel arguments are limited to 4 KiB.
constexpr int kMaxEntries = 80;

struct WeightTable {
  WeightEntry entries[kMaxEntries];
  int count;
  bool real_zero_point;
  int64_t rows;

  __device__ __forceinline__ int64_t rows_of(int entry) const {
    return (entry + 1 < count ? entries[entry + 1].first_row : rows) - entries[entry].first_row;
  }
};
static_assert(sizeof(WeightTable) <= 4096, "kernel arguments are limited to 4 KiB");

template <int kSize, typename T>
__device__ __forceinline__ void quantize_row(const T* __restrict__ weight, T* __restrict__ output,
                                             const WeightTable& table, int entry, int64_t row) {
  using F = Compute<T>;
  const int64_t columns = table.entries[entry].columns;
  F low, high;
  if (const F* range = static_cast<const F*>(table.entries[entry].range)) {
    low = range[row];
    high = range[table.rows_of(entry) + row];
  } else {
    const Extremes<F> extremes =
        block_extremes(find_extremes<kSize, T, F>(weight, columns, threadIdx.x, kRowBlock));
    low = extremes.minimum();
    high = extremes.maximum();
  }
  const Quantizer<F> quantizer = make_quantizer(low, high, table.entries[entry].bits,
                                                table.real_zero_point, Activation::kNone);
  // Elements after the last whole vector come one by one, and so do those of an irregular row.
  const int64_t vectors = quantizer.regular ? columns / kSize : 0;
  for (int64_t i = threadIdx.x; i < vectors; i += kRowBlock) {
    F values[kSize];
    load_vector<kSize>(weight + i * kSize, values);
#pragma unroll
    for (int k = 0; k < kSize; ++k)
      values[k] = dequantize(quantizer, shifted_code(quantizer, values[k]));
    store_vector<kSize>(output + i * kSize, values);
  }
  for (int64_t i = vectors * kSize + threadIdx.x; i < columns; i += kRowBlock) {
    output[i] =
        from_compute<T>(quantize_exact(quantizer, to_compute(weight[i]), Activation::kNone));
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowBlock) quantize_tensors(const WeightTable table) {
  for (int64_t row = blockIdx.x; row < table.rows; row += gridDim.x) {
    int low = 0, high = table.count;  // the last entry that starts at or before the row
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (table.entries[middle].first_row <= row) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const int64_t own = row - table.entries[low].first_row;
    const int64_t offset = own * table.entries[low].columns;
    const T* weight = static_cast<const T*>(table.entries[low].weight) + offset;
    T* output = static_cast<T*>(table.entries[low].output) + offset;
    if (table.entries[low].aligned) {
      quantize_row<kVector<T>>(weight, output, table, low, own);
    } else {
      quantize_row<1>(weight, output, table, low, own);
    }
  }
}

template <typename T>
const char* launch_weights(const FakeQuantizeWeightsArgs& args) {
  const auto kernel = quantize_tensors<T>;
  int64_t next = 0;
  while (next < args.count) {
    WeightTable table = {};
    table.real_zero_point = args.real_zero_point;
    for (; next < args.count && table.count < kMaxEntries; ++next) {
      const WeightTensor& tensor = args.tensors[next];
      if (tensor.rows == 0 || tensor.columns == 0) continue;
      const bool vectors = aligned(tensor.weight, 16) && aligned(tensor.output, 16) &&
                           tensor.columns % kVector<T> == 0;
      table.entries[table.count++] = {tensor.weight, tensor.output, tensor.range, tensor.columns,
                                      table.rows,    tensor.bits,   vectors};
      table.rows += tensor.rows;
    }
    if (table.rows == 0) break;
    HAST_LAUNCH(kernel, dim3(clamped(table.rows, kMaxGridX)), dim3(kRowBlock), 0, args.stream,
                table);
    if (const char* error = launch_error()) return error;
  }
  return nullptr;
}

}  // namespace

// A minimum and a maximum per block; a block for every 4096 elements, but no more than fill a GPU.
int64_t range_scratch(int64_t size) { return 2 * smaller(1024, ceil_div(size, 4096)); }

const char* update_range(const UpdateRangeArgs& args) {
  if (args.size == 0) return nullptr;
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      return aligned(args.x, 16) ? launch_observe<T, kVector<T>>(args) : launch_observe<T, 1>(args);
    });
  });
}

const char* fake_quantize_weights(const FakeQuantizeWeightsArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype,
                       [&](auto element) { return launch_weights<decltype(element)>(args); });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
