// The distance of all layers' batch statistics from the running ones (Eq. 3), with its gradient.
// L layers, d = mean - running_mean or var - running_var:
//
//   squares (as released)  loss = 1/L * sum_l mean_c(d^2),       gradient = 2*d / (C_l*L)
//   norms (Eq. 3)          loss = 1/L * sum_l ||d||_2,           gradient = d / (||d||_2*L), 0 at 0
//   relative               loss = 1/L * sum_l mean_c(d^2) / u_l, gradient = 2*d / (C_l*L*u_l)
//
// each summed over the two statistics. With s_l = mean_c(running_var), or 1 where that is 0, u_l is
// s_l for the means and s_l^2 for the variances: layers count alike, whatever their scale.
#pragma once

#include "common/dtype.h"

namespace hast {

enum class MatchReduction { kSquares = 0, kNorms = 1, kRelative = 2 };

struct MatchedLayer {
  const void* mean;
  const void* var;
  const void* running_mean;
  const void* running_var;
  int64_t channels;
};

struct MatchLossArgs {
  const MatchedLayer* layers;
  int64_t count;
  void* loss;      // fp[1]
  void* gradient;  // fp[2, sum of channels]: means, then variances
  DType dtype;
  MatchReduction reduction;
  int device;
  void* stream;
};

inline namespace HAST_BACKEND {

const char* match_loss(const MatchLossArgs& args);

}  // namespace HAST_BACKEND
}  // namespace hast
