// CUDA kernel of match_loss.h: one block, a warp per layer, so that the latencies of the layers
// overlap; a few thousand values in all. Sums in double.
#include "match_loss.h"

#include "common/cuda_reduce.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kThreads = 1024;

struct LayerEntry {
  MatchedLayer layer;
  int64_t offset;  // of its channels in the gradient
};

constexpr int kMaxLayers = 80;

struct LayerTable {
  LayerEntry entries[kMaxLayers];
  int count;
  MatchReduction reduction;
  bool accumulate;  // not the first launch of this loss
  int64_t layers;   // of all launches
  int64_t channels;
  void* loss;
  void* gradient;
};
static_assert(sizeof(LayerTable) <= 4096, "kernel arguments are limited to 4 KiB");

// One warp: mean_c(running_var), or 1 where that is 0, in every lane.
template <typename F>
__device__ double scale_of(const F* running_var, int64_t channels) {
  double sum = 0.0;
  for (int64_t c = threadIdx.x % kWarp; c < channels; c += kWarp) {
    sum += static_cast<double>(running_var[c]);
  }
  sum = warp_sum(sum);
  return sum == 0.0 ? 1.0 : sum / static_cast<double>(channels);
}

// One warp: the loss of one statistic of one layer, times the number of layers, in every lane.
// Squares are divided by unit.
template <typename F>
__device__ double match(const F* value, const F* target, F* gradient, int64_t channels,
                        double layers, bool norm, double unit) {
  const int64_t lane = threadIdx.x % kWarp;
  double squares = 0.0;
  for (int64_t c = lane; c < channels; c += kWarp) {
    const double difference = static_cast<double>(value[c]) - static_cast<double>(target[c]);
    squares += difference * difference;
  }
  squares = warp_sum(squares);
  const double length = norm ? square_root(squares) : 0.0;
  const double divisor = (norm ? length : 0.5 * static_cast<double>(channels) * unit) * layers;
  const double factor = divisor == 0.0 ? 0.0 : 1.0 / divisor;
  for (int64_t c = lane; c < channels; c += kWarp) {
    const double difference = static_cast<double>(value[c]) - static_cast<double>(target[c]);
    gradient[c] = static_cast<F>(difference * factor);
  }
  return norm ? length : squares / (static_cast<double>(channels) * unit);
}

template <typename F>
__global__ void __launch_bounds__(kThreads) match_layers(const LayerTable table) {
  __shared__ double losses[kMaxLayers];
  const double layers = static_cast<double>(table.layers);
  const bool norm = table.reduction == MatchReduction::kNorms;
  const bool relative = table.reduction == MatchReduction::kRelative;
  for (int i = static_cast<int>(threadIdx.x) / kWarp; i < table.count; i += kThreads / kWarp) {
    const MatchedLayer& layer = table.entries[i].layer;
    F* gradient = static_cast<F*>(table.gradient) + table.entries[i].offset;
    const F* running_var = static_cast<const F*>(layer.running_var);
    const double scale = relative ? scale_of(running_var, layer.channels) : 1.0;
    const double loss =
        match(static_cast<const F*>(layer.mean), static_cast<const F*>(layer.running_mean),
              gradient, layer.channels, layers, norm, scale) +
        match(static_cast<const F*>(layer.var), running_var, gradient + table.channels,
              layer.channels, layers, norm, scale * scale);
    if (threadIdx.x % kWarp == 0) losses[i] = loss;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  F* target = static_cast<F*>(table.loss);
  double loss = 0.0;
  for (int i = 0; i < table.count; ++i) loss += losses[i];
  loss /= layers;
  *target = static_cast<F>(table.accumulate ? static_cast<double>(*target) + loss : loss);
}

template <typename F>
const char* launch_layers(const MatchLossArgs& args) {
  const auto kernel = match_layers<F>;
  LayerTable table = {};
  table.reduction = args.reduction;
  table.layers = args.count;
  table.loss = args.loss;
  table.gradient = args.gradient;
  for (int64_t i = 0; i < args.count; ++i) table.channels += args.layers[i].channels;
  int64_t offset = 0;
  for (int64_t first = 0; first < args.count; first += kMaxLayers) {
    table.count = static_cast<int>(smaller(kMaxLayers, args.count - first));
    table.accumulate = first > 0;
    for (int i = 0; i < table.count; ++i) {
      table.entries[i] = {args.layers[first + i], offset};
      offset += args.layers[first + i].channels;
    }
    HAST_LAUNCH(kernel, dim3(1), dim3(kThreads), 0, args.stream, table);
    if (const char* error = launch_error()) return error;
  }
  return nullptr;
}

}  // namespace

const char* match_loss(const MatchLossArgs& args) {
  return on_device(args.device, [&] {
    return visit_compute_type(
        args.dtype, [&](auto statistic) { return launch_layers<decltype(statistic)>(args); });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
