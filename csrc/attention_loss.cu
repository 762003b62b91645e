// CUDA kernel of attention_loss.h, all layers in one launch: a warp per layer and sample, gradients
// in closed form from energies that stay in the cache, the loss summed by the last block.
#include "attention_loss.h"

#include "common/cuda_reduce.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

constexpr int kWarps = kBlock / kWarp;
constexpr int kMaxPairs = 72;

struct AttentionTable {
  AttentionPair pairs[kMaxPairs];
  int count;
  bool accumulate;  // not the first launch of this loss
  AttentionLossArgs args;
};
static_assert(sizeof(AttentionTable) <= 4096, "kernel arguments are limited to 4 KiB");

template <typename F>
struct Vector {
  const F* energy;
  F* gradient;  // or null
  Normalization<F> normalization;

  __device__ F direction(int64_t channel) const { return energy[channel] * normalization.inverse; }
};

template <typename F>
__device__ Vector<F> vector_of(const void* energy, void* gradient, int64_t offset, int64_t channels,
                               F floor) {
  const F* own = static_cast<const F*>(energy) + offset;
  double squares = 0.0;
  for (int64_t c = threadIdx.x % kWarp; c < channels; c += kWarp) {
    squares += static_cast<double>(own[c]) * static_cast<double>(own[c]);
  }
  return {own, gradient ? static_cast<F*>(gradient) + offset : nullptr,
          Normalization<F>(warp_sum(squares), floor)};
}

// Gradient of `own` with dA = factor * (A_own - A_other).
template <typename F>
__device__ void write_gradient(const Vector<F>& own, const Vector<F>& other, int64_t channels,
                               F factor) {
  if (!own.gradient) return;  // the same for all lanes
  const int64_t lane = threadIdx.x % kWarp;
  F projection = F(0);
  for (int64_t c = lane; c < channels; c += kWarp) {
    const F direction = own.direction(c);
    projection += direction * (factor * (direction - other.direction(c)));
  }
  projection = warp_sum(projection);
  for (int64_t c = lane; c < channels; c += kWarp) {
    const F direction = own.direction(c);
    const F d_direction = factor * (direction - other.direction(c));
    own.gradient[c] = own.normalization.gradient(direction, d_direction, projection);
  }
}

// One warp; the loss of one sample of one layer, in every lane.
template <typename F>
__device__ F normalized_loss(const AttentionPair& pair, int64_t sample, F divisor) {
  const int64_t channels = pair.channels, offset = sample * channels;
  const F floor = norm_floor<F>(pair.spatial);
  const Vector<F> teacher = vector_of(pair.teacher, pair.teacher_gradient, offset, channels, floor);
  const Vector<F> student = vector_of(pair.student, pair.student_gradient, offset, channels, floor);
  F loss = F(0);
  for (int64_t c = threadIdx.x % kWarp; c < channels; c += kWarp) {
    const F difference = student.direction(c) - teacher.direction(c);
    loss += difference * difference;
  }
  write_gradient(student, teacher, channels, F(2) / divisor);
  write_gradient(teacher, student, channels, F(2) / divisor);
  return warp_sum(loss) / divisor;
}

template <typename F>
__device__ F plain_loss(const AttentionPair& pair, int64_t sample, F divisor) {
  const int64_t offset = sample * pair.channels;
  const F* teacher = static_cast<const F*>(pair.teacher) + offset;
  const F* student = static_cast<const F*>(pair.student) + offset;
  F* d_teacher = static_cast<F*>(pair.teacher_gradient);
  F* d_student = static_cast<F*>(pair.student_gradient);
  const F factor = F(2) / divisor;
  F loss = F(0);
  for (int64_t c = threadIdx.x % kWarp; c < pair.channels; c += kWarp) {
    const F difference = student[c] - teacher[c];
    loss += difference * difference;
    if (d_student) d_student[offset + c] = factor * difference;
    if (d_teacher) d_teacher[offset + c] = -factor * difference;
  }
  return warp_sum(loss) / divisor;
}

// Grid: x layers times samples, in units of a warp.
template <typename F>
__global__ void __launch_bounds__(kBlock) attention_losses(const AttentionTable table) {
  const int64_t samples = table.count * table.args.batch;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  volatile F* partial = static_cast<F*>(table.args.scratch);
  int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for (; item < samples; item += step) {
    const AttentionPair& pair = table.pairs[item / table.args.batch];
    const int64_t sample = item % table.args.batch;
    const F divisor = loss_divisor<F>(table.args, pair.channels);
    const F loss = table.args.normalized ? normalized_loss(pair, sample, divisor)
                                         : plain_loss(pair, sample, divisor);
    if (threadIdx.x % kWarp == 0) partial[item] = loss;
  }
  if (!is_last_block(table.args.counters, gridDim.x)) return;
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < samples; i += kBlock) sum += static_cast<double>(partial[i]);
  sum = block_sum({sum, 0.0}).first;
  if (threadIdx.x != 0) return;
  F* loss = static_cast<F*>(table.args.loss);
  *loss = static_cast<F>(table.accumulate ? static_cast<double>(*loss) + sum : sum);
}

template <typename F>
const char* launch_pairs(const AttentionLossArgs& args) {
  const auto kernel = attention_losses<F>;
  AttentionTable table = {};
  table.args = args;  // count stays that of all launches: the plain loss divides by it
  for (int64_t first = 0; first < args.count; first += kMaxPairs) {
    table.count = static_cast<int>(smaller(kMaxPairs, args.count - first));
    table.accumulate = first > 0;
    for (int i = 0; i < table.count; ++i) table.pairs[i] = args.pairs[first + i];
    // Launches follow each other on the stream, so they can share the scratch.
    const unsigned blocks = clamped(ceil_div(table.count * args.batch, kWarps), 65535);
    HAST_LAUNCH(kernel, dim3(blocks), dim3(kBlock), 0, args.stream, table);
    if (const char* error = launch_error()) return error;
  }
  return nullptr;
}

}  // namespace

const char* attention_loss(const AttentionLossArgs& args) {
  return on_device(args.device, [&] {
    return visit_compute_type(
        args.dtype, [&](auto statistic) { return launch_pairs<decltype(statistic)>(args); });
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
