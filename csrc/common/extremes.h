// Minimum and maximum, with NaN as in torch.
#pragma once

#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

// A running minimum and maximum. NaN loses every comparison, so it is counted apart and wins in
// the end, as in torch.amin and torch.amax.
template <typename F>
struct Extremes {
  F low = static_cast<F>(INFINITY);
  F high = -static_cast<F>(INFINITY);
  bool nan = false;

  HAST_HOST_DEVICE void add(F value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
    nan = nan || value != value;
  }

  HAST_HOST_DEVICE F minimum() const { return nan ? static_cast<F>(NAN) : low; }
  HAST_HOST_DEVICE F maximum() const { return nan ? static_cast<F>(NAN) : high; }
};

}  // namespace HAST_BACKEND
}  // namespace hast
