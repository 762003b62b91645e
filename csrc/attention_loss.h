// The distance between two networks' channel attention over all layers (Eq. 13), with gradients.
// a: energies [batch, C] of a layer, t: teacher, s: student.
//
//   normalized (as released)  A = a / max(||a||_2, 1e-12*spatial), the L2-normalized spatial mean
//                             loss = sum_l sum_{n,c} (A_s - A_t)^2 / (batch*C_l)
//   plain (Eq. 13)            loss = sum_l sum_n ||a_s - a_t||^2 / (batch*layers)
#pragma once

#include "common/dtype.h"

namespace hast {

struct AttentionPair {
  const void* teacher;
  const void* student;
  void* teacher_gradient;  // or null
  void* student_gradient;  // or null
  int64_t channels, spatial;
};

struct AttentionLossArgs {
  const AttentionPair* pairs;
  int64_t count;
  int64_t batch;
  void* loss;          // fp[1]
  void* scratch;       // fp[count * batch]
  uint32_t* counters;  // one, zero on entry and on exit; CUDA only
  DType dtype;
  bool normalized;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* attention_loss(const AttentionLossArgs& args);

// The norm below which a vector is divided by the floor instead, as in torch's normalize.
template <typename F>
HAST_HOST_DEVICE F norm_floor(int64_t spatial) {
  return static_cast<F>(1e-12 * static_cast<double>(spatial));
}

// What one sample's loss is divided by.
template <typename F>
HAST_HOST_DEVICE F loss_divisor(const AttentionLossArgs& args, int64_t channels) {
  return static_cast<F>(static_cast<double>(args.batch) *
                        static_cast<double>(args.normalized ? channels : args.count));
}

// 1 / max(||a||, floor), and whether the norm is the larger one.
template <typename F>
struct Normalization {
  F inverse;
  bool above_floor;

  // The sum of squares in double: energies are sums of squares themselves, and theirs leave the
  // range of float from 2e19 on, where the norm is still far inside it.
  HAST_HOST_DEVICE Normalization(double squares, F floor) {
    const F norm = static_cast<F>(square_root(squares));
    above_floor = norm > floor;
    inverse = F(1) / (norm < floor ? floor : norm);
  }

  // d/da of f(A), A = a * inverse, given dA = df/dA and projection = sum(A * dA).
  HAST_HOST_DEVICE F gradient(F direction, F d_direction, F projection) const {
    return (above_floor ? d_direction - direction * projection : d_direction) * inverse;
  }
};

}  // namespace HAST_BACKEND
}  // namespace hast
