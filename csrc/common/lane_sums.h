// Two running sums over runs of elements on the CPU, in SIMD lanes of a fixed number: short runs
// need no horizontal sum each, long ones do not wait for one addition after the other, and the
// order of summation is the same on every instruction set.
#pragma once

#include "common/dtype.h"

namespace hast {
inline namespace HAST_BACKEND {

template <typename F>
class LaneSums {
 public:
  // Adds d and d * d for d = x - shift.
  HAST_HOST_DEVICE void add_squares(const F* x, int64_t size, F shift) {
    add<true>(nullptr, x, size, shift);
  }

  // Adds g and g * (x - shift).
  HAST_HOST_DEVICE void add_products(const F* g, const F* x, int64_t size, F shift) {
    add<false>(g, x, size, shift);
  }

  void add_to(double* sums) const {
    for (int part = 0; part < 2; ++part) {
      const Pack* packs = part == 0 ? first_ : second_;
      double sum = static_cast<double>(rest_[part]);
      for (int lane = 0; lane < kLanes; ++lane) {
        sum += static_cast<double>(packs[0][lane]) + static_cast<double>(packs[1][lane]);
      }
      sums[part] += sum;
    }
  }

 private:
  typedef F Pack __attribute__((vector_size(32)));
  static constexpr int kLanes = 32 / static_cast<int>(sizeof(F));

  HAST_HOST_DEVICE static void load(Pack& pack, const F* values) {
    memcpy(&pack, values, sizeof pack);
  }

  template <bool kSquares>
  HAST_HOST_DEVICE static void step(const F* g, const F* x, F shift, Pack& first, Pack& second) {
    Pack centered, factor;
    load(centered, x);
    centered -= shift;
    if (kSquares) {
      factor = centered;
    } else {
      load(factor, g);
    }
    first += factor;
    second += factor * centered;
  }

  template <bool kSquares>
  HAST_HOST_DEVICE void add(const F* g, const F* x, int64_t size, F shift) {
    Pack first[2] = {first_[0], first_[1]}, second[2] = {second_[0], second_[1]};
    int64_t i = 0;
    for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
      step<kSquares>(g + i, x + i, shift, first[0], second[0]);
      step<kSquares>(g + i + kLanes, x + i + kLanes, shift, first[1], second[1]);
    }
    if (i + kLanes <= size) {
      step<kSquares>(g + i, x + i, shift, first[0], second[0]);
      i += kLanes;
    }
    for (int k = 0; k < 2; ++k) first_[k] = first[k], second_[k] = second[k];
    for (; i < size; ++i) {
      const F centered = x[i] - shift;
      const F factor = kSquares ? centered : g[i];
      rest_[0] += factor;
      rest_[1] += factor * centered;
    }
  }

  Pack first_[2] = {}, second_[2] = {};
  F rest_[2] = {};
};

// Brings the sums home and starts anew.
template <typename F>
void fold(LaneSums<F>& lanes, double* sums) {
  lanes.add_to(sums);
  lanes = LaneSums<F>();
}

// Sum of squares of a run. Four vectors: with one, every addition would wait for the last.
template <typename F>
HAST_HOST_DEVICE F sum_of_squares(const F* x, int64_t size) {
  typedef F Pack __attribute__((vector_size(32)));
  constexpr int kLanes = 32 / static_cast<int>(sizeof(F)), kPacks = 4;
  Pack sums[kPacks] = {};
  int64_t i = 0;
  for (; i + kPacks * kLanes <= size; i += kPacks * kLanes) {
    for (int k = 0; k < kPacks; ++k) {
      Pack values;
      memcpy(&values, x + i + k * kLanes, sizeof values);
      sums[k] += values * values;
    }
  }
  const Pack pack = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  F sum = F(0);
  for (int lane = 0; lane < kLanes; ++lane) sum += pack[lane];
  for (; i < size; ++i) sum += x[i] * x[i];
  return sum;
}

// The values of a run in the type of the arithmetic: the run itself, or converted in `buffer`.
template <typename F>
HAST_HOST_DEVICE const F* widened(const F* x, F*, int64_t) {
  return x;
}
template <typename T, typename F>
const F* widened(const T* __restrict x, F* __restrict buffer, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) buffer[i] = to_compute(x[i]);
  return buffer;
}

}  // namespace HAST_BACKEND
}  // namespace hast
