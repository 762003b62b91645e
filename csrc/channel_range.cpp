// CPU kernels of channel_range.h.
#include "channel_range.h"

#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename T, typename F>
Extremes<F> find_extremes(const T* __restrict x, int64_t size) {
  F low = static_cast<F>(INFINITY);
  F high = -static_cast<F>(INFINITY);
  // The flag has the width of F: a narrower one would keep the loop from being SIMD code.
  F nan = F(0);
#pragma omp simd reduction(min : low) reduction(max : high) reduction(max : nan)
  for (int64_t i = 0; i < size; ++i) {
    const F value = to_compute(x[i]);
    low = value < low ? value : low;
    high = value > high ? value : high;
    const F flag = value != value ? F(1) : F(0);
    nan = flag > nan ? flag : nan;
  }
  Extremes<F> extremes;
  extremes.low = low;
  extremes.high = high;
  extremes.nan = nan > F(0);
  return extremes;
}

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

template <typename T>
void observe(const UpdateRangeArgs& args) {
  using F = Compute<T>;
  const T* x = static_cast<const T*>(args.x);
  F* partial = static_cast<F*>(args.scratch);
  parallel_segments(1, args.size, [&](int64_t, int64_t begin, int64_t end) {
    const Extremes<F> extremes = find_extremes<T, F>(x + begin, end - begin);
    partial[2 * (begin / kGrain)] = extremes.minimum();
    partial[2 * (begin / kGrain) + 1] = extremes.maximum();
  });
  Extremes<F> all;
  const int64_t count = range_scratch(args.size);
  for (int64_t i = 0; i < count; ++i) all.add(partial[i]);
  const ActivationRange<F> act = activation_range<F>(args.activation);
  step_range(static_cast<F*>(args.state), act(all.minimum()), act(all.maximum()),
             static_cast<F>(args.beta), static_cast<F>(1.0 - args.beta), args.released);
}

}  // namespace

int64_t range_scratch(int64_t size) { return 2 * ceil_div(size, kGrain); }

const char* update_range(const UpdateRangeArgs& args) {
  if (args.size == 0) return nullptr;
  return visit_dtype(args.dtype, [&](auto element) -> const char* {
    observe<decltype(element)>(args);
    return nullptr;
  });
}

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
