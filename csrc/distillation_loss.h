// Distillation (Eq. 6) with its gradients. t, s: logits [rows, classes]; T: temperature;
// p = softmax(t/T), q = softmax(s/T):
//
//   loss = 1/rows * sum_n KL_n,  KL_n = sum_j p_j * (log p_j - log q_j)
//   d/ds_j = (q_j - p_j) / (T*rows)
//   d/dt_j = p_j * ((log p_j - log q_j) - KL_n) / (T*rows)
//
// With a_j = (t_j - max t)/T, b_j likewise, Z the sums of their exponentials, the constants leave
// the sum: KL_n = sum_j p_j * (a_j - b_j) - log(Z_t / Z_s).
#pragma once

#include "common/dtype.h"
#include "common/transcendental.h"

namespace hast {

struct DistillationLossArgs {
  const void* teacher;
  const void* student;
  void* teacher_gradient;  // fp[rows, classes] or null
  void* student_gradient;  // fp[rows, classes] or null
  void* loss;              // fp[1]
  double* scratch;         // [rows]
  uint32_t* counters;      // one, zero on entry and on exit; CUDA only
  double temperature;
  DType dtype;
  int64_t rows, classes;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* distillation_loss(const DistillationLossArgs& args);

// What the sums of a row say about it. exp_t, exp_s: e^a_j, e^b_j; gap: a_j - b_j.
template <typename F>
struct DistilledRow {
  double loss;  // KL_n
  F teacher_scale, student_scale, mean_gap;

  // log1p: the quotient of the sums is near 1 for alike networks and has few digits left in fp.
  HAST_HOST_DEVICE DistilledRow(const DistillationLossArgs& args, double sum_t, double sum_s,
                                double weighted_gap) {
    const double factor = 1.0 / (args.temperature * static_cast<double>(args.rows));
    const double mean = weighted_gap / sum_t;
    loss = mean - static_cast<double>(log_one_plus(static_cast<F>((sum_t - sum_s) / sum_s)));
    teacher_scale = static_cast<F>(factor / sum_t);
    student_scale = static_cast<F>(factor / sum_s);
    mean_gap = static_cast<F>(mean);
  }

  HAST_HOST_DEVICE F student_gradient(F exp_t, F exp_s) const {
    return exp_s * student_scale - exp_t * teacher_scale;
  }
  HAST_HOST_DEVICE F teacher_gradient(F exp_t, F gap) const {
    return exp_t * teacher_scale * (gap - mean_gap);
  }
};

}  // namespace HAST_BACKEND
}  // namespace hast
