// CPU kernel of fake_quantize_weights.h.
#include "fake_quantize_weights.h"

#include "common/cpu_extremes.h"
#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T, typename F>
void quantize_row(const T* __restrict weight, T* __restrict output, int64_t columns,
                  const Quantizer<F>& quantizer) {
  if (quantizer.regular) {
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
      output[i] =
          from_compute<T>(quotient(quantizer, shifted_code(quantizer, to_compute(weight[i]))));
    }
  } else {  // the same formula, since no activation is folded in, but for the division
    for (int64_t i = 0; i < columns; ++i) {
      output[i] =
          from_compute<T>(quantize_exact(quantizer, to_compute(weight[i]), Activation::kNone));
    }
  }
}

// On the grid of the row if it has one, else on that of its minimum and maximum.
template <typename T>
Quantizer<Compute<T>> row_quantizer(const WeightTensor& tensor, const T* weight, int64_t row,
                                    bool real_zero_point) {
  using F = Compute<T>;
  F low, high;
  if (const F* range = static_cast<const F*>(tensor.range)) {
    low = range[row];
    high = range[tensor.rows + row];
  } else {
    const Extremes<F> extremes = find_extremes<T, F>(weight, tensor.columns);
    low = extremes.minimum();
    high = extremes.maximum();
  }
  return make_quantizer(low, high, tensor.bits, real_zero_point, Activation::kNone);
}

}  // namespace

const char* fake_quantize_weights(const FakeQuantizeWeightsArgs& args) {
  int64_t elements = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    elements += args.tensors[i].rows * args.tensors[i].columns;
  }
  if (elements == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    using T = decltype(element);
    // A thread's share is a run of elements over all tensors, however small each of them is; a row
    // belongs to the share its first element is in.
    parallel_for(elements, elements, [&](int64_t begin, int64_t end) {
      int64_t first = 0;  // of this tensor, among all elements
      for (int64_t i = 0; i < args.count; ++i) {
        const WeightTensor& tensor = args.tensors[i];
        const int64_t columns = tensor.columns;
        if (columns == 0) continue;
        const int64_t from = ceil_div(larger(begin - first, 0), columns);
        const int64_t to = smaller(tensor.rows, ceil_div(larger(end - first, 0), columns));
        for (int64_t row = from; row < to; ++row) {
          const int64_t offset = row * columns;
          const T* weight = static_cast<const T*>(tensor.weight) + offset;
          quantize_row(weight, static_cast<T*>(tensor.output) + offset, columns,
                       row_quantizer(tensor, weight, row, args.real_zero_point));
        }
        first += tensor.rows * columns;
      }
    });
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
