// CPU kernel of attention_loss.h: one sample of one layer at a time, gradients in closed form.
#include "attention_loss.h"

#include "common/parallel.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

template <typename F>
double sum_of_squares(const F* __restrict a, int64_t size) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  return sum;
}

template <typename F>
struct Vector {
  const F* energy;
  F* gradient;  // or null
  Normalization<F> normalization;

  F direction(int64_t channel) const { return energy[channel] * normalization.inverse; }
};

template <typename F>
Vector<F> vector_of(const void* energy, void* gradient, int64_t offset, int64_t channels, F floor) {
  const F* own = static_cast<const F*>(energy) + offset;
  return {own, gradient ? static_cast<F*>(gradient) + offset : nullptr,
          Normalization<F>(sum_of_squares(own, channels), floor)};
}

// Gradient of `own` with dA = factor * (A_own - A_other).
template <typename F>
void write_gradient(const Vector<F>& own, const Vector<F>& other, int64_t channels, F factor) {
  if (!own.gradient) return;
  F projection = F(0);
#pragma omp simd reduction(+ : projection)
  for (int64_t c = 0; c < channels; ++c) {
    const F direction = own.direction(c);
    projection += direction * (factor * (direction - other.direction(c)));
  }
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const F direction = own.direction(c);
    const F d_direction = factor * (direction - other.direction(c));
    own.gradient[c] = own.normalization.gradient(direction, d_direction, projection);
  }
}

template <typename F>
F normalized_loss(const AttentionPair& pair, int64_t sample, F divisor) {
  const int64_t channels = pair.channels;
  const F floor = norm_floor<F>(pair.spatial);
  const int64_t offset = sample * channels;
  const Vector<F> teacher = vector_of(pair.teacher, pair.teacher_gradient, offset, channels, floor);
  const Vector<F> student = vector_of(pair.student, pair.student_gradient, offset, channels, floor);
  F loss = F(0);
#pragma omp simd reduction(+ : loss)
  for (int64_t c = 0; c < channels; ++c) {
    const F difference = student.direction(c) - teacher.direction(c);
    loss += difference * difference;
  }
  write_gradient(student, teacher, channels, F(2) / divisor);
  write_gradient(teacher, student, channels, F(2) / divisor);
  return loss / divisor;
}

template <typename F>
F plain_loss(const AttentionPair& pair, int64_t sample, F divisor) {
  const int64_t offset = sample * pair.channels;
  const F* teacher = static_cast<const F*>(pair.teacher) + offset;
  const F* student = static_cast<const F*>(pair.student) + offset;
  F* d_teacher = static_cast<F*>(pair.teacher_gradient);
  F* d_student = static_cast<F*>(pair.student_gradient);
  const F factor = F(2) / divisor;
  F loss = F(0);
#pragma omp simd reduction(+ : loss)
  for (int64_t c = 0; c < pair.channels; ++c) {
    const F difference = student[c] - teacher[c];
    loss += difference * difference;
  }
  for (int64_t c = 0; d_student && c < pair.channels; ++c) {
    d_student[offset + c] = factor * (student[c] - teacher[c]);
  }
  for (int64_t c = 0; d_teacher && c < pair.channels; ++c) {
    d_teacher[offset + c] = factor * (teacher[c] - student[c]);
  }
  return loss / divisor;
}

template <typename F>
void attention_losses(const AttentionLossArgs& args) {
  F* partial = static_cast<F*>(args.scratch);
  const int64_t samples = args.count * args.batch;
  int64_t elements = 0;
  for (int64_t i = 0; i < args.count; ++i) elements += args.batch * args.pairs[i].channels;
  parallel_for(samples, elements, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const AttentionPair& pair = args.pairs[item / args.batch];
      const int64_t sample = item % args.batch;
      const F divisor = loss_divisor<F>(args, pair.channels);
      partial[item] = args.normalized ? normalized_loss(pair, sample, divisor)
                                      : plain_loss(pair, sample, divisor);
    }
  });
  double loss = 0.0;
  for (int64_t item = 0; item < samples; ++item) loss += static_cast<double>(partial[item]);
  *static_cast<F*>(args.loss) = static_cast<F>(loss);
}

}  // namespace

const char* attention_loss(const AttentionLossArgs& args) {
  return visit_compute_type(args.dtype, [&](auto statistic) -> const char* {
    attention_losses<decltype(statistic)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
