// CUDA kernel of fake_quantize_weights.h: a block per row of any tensor, all tensors in one launch;
// the second read of a row hits the cache. A row whose grid is given is read once.
#include "fake_quantize_weights.h"

#include "common/cuda_extremes.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kRowBlock = 128;  // threads per weight row

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
__global__ void __launch_bounds__(kRowBlock) quantize_weights(const WeightTable table) {
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
  const auto kernel = quantize_weights<T>;
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

const char* fake_quantize_weights(const FakeQuantizeWeightsArgs& args) {
  return on_device(args.device, [&] {
    return visit_dtype(args.dtype,
                       [&](auto element) { return launch_weights<decltype(element)>(args); });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
