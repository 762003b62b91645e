// Where dy passes in the CPU kernel of batch_norm_backward.h: loops from dy to g, gated by the
// output or by the value before the activation.
#pragma once

#include "batch_norm_backward.h"

namespace hast {
inline namespace HAST_BACKEND {

template <typename T>
struct BackwardOperands {
  const T* x;
  const T* y;         // null: not gated by the output
  const T* residual;  // null: 0
  const T* dy;
  const T* dy2;     // null: 0
  const T* dmap;    // null: 0
  const T* target;  // null: 0
  T* dx;
  T* dresidual;
  T* dtarget;

  BackwardOperands at(int64_t offset) const {
    return {x + offset,
            y ? y + offset : nullptr,
            residual ? residual + offset : nullptr,
            dy ? dy + offset : nullptr,
            dy2 ? dy2 + offset : nullptr,
            dmap ? dmap + offset : nullptr,
            target ? target + offset : nullptr,
            dx ? dx + offset : nullptr,
            dresidual ? dresidual + offset : nullptr,
            dtarget ? dtarget + offset : nullptr};
  }
};

// dy where nothing stops it.
template <bool kSecond, typename T>
HAST_HOST_DEVICE Compute<T> upstream(const T* dy, const T* dy2, int64_t i) {
  const Compute<T> first = to_compute(dy[i]);
  return kSecond ? first + to_compute(dy2[i]) : first;
}

template <bool kGated, bool kSecond, typename T, typename F>
void gate_by_output(const BackwardOperands<T>& operands, F* __restrict g, int64_t size, F top) {
  const T* __restrict y = operands.y;
  const T* __restrict dy = operands.dy;
  const T* __restrict dy2 = operands.dy2;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const F value = upstream<kSecond>(dy, dy2, i);
    g[i] = !kGated || passes_gradient(F(to_compute(y[i])), top) ? value : F(0);
  }
}

template <bool kResidual, bool kClipped, bool kSecond, typename T, typename F, typename Gradient>
void gate_by_input(const BackwardOperands<T>& operands, F* __restrict g, int64_t size,
                   const Gradient& gradient, const InputGate<F> gate) {
  const T* __restrict x = operands.x;
  const T* __restrict residual = operands.residual;
  const T* __restrict dy = operands.dy;
  const T* __restrict dy2 = operands.dy2;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    F v = gradient.affine(i)(to_compute(x[i]));
    if (kResidual) v += to_compute(residual[i]);
    const F value = upstream<kSecond>(dy, dy2, i);
    bool keep = !gate.activated | passes_gradient(v, gate.top);
    if (kClipped) keep = keep & code_in_range(gate.quantizer, v, gate.half);
    g[i] = keep ? value : F(0);
  }
}

template <bool kSecond, typename T, typename F, typename Gradient>
void gate_by(Gate by, const BackwardOperands<T>& operands, F* __restrict g, int64_t size,
             const Gradient& gradient, const InputGate<F>& gate) {
  if (by == Gate::kNone) {
    gate_by_output<false, kSecond>(operands, g, size, gate.top);
  } else if (by == Gate::kOutput) {
    gate_by_output<true, kSecond>(operands, g, size, gate.top);
  } else if (gate.clipped && operands.residual) {
    gate_by_input<true, true, kSecond>(operands, g, size, gradient, gate);
  } else if (gate.clipped) {
    gate_by_input<false, true, kSecond>(operands, g, size, gradient, gate);
  } else if (operands.residual) {
    gate_by_input<true, false, kSecond>(operands, g, size, gradient, gate);
  } else {
    gate_by_input<false, false, kSecond>(operands, g, size, gradient, gate);
  }
}

// g = dy where it passes.
template <typename T, typename F, typename Gradient>
void gate(const BatchNormBackwardArgs& args, const BackwardOperands<T>& operands, F* __restrict g,
          int64_t size, const Gradient& gradient, const InputGate<F>& gate) {
  T* __restrict dresidual = operands.dresidual;
  if (!operands.dy) {
    for (int64_t i = 0; i < size; ++i) g[i] = F(0);
  } else if (operands.dy2) {
    gate_by<true>(args.gate, operands, g, size, gradient, gate);
  } else {
    gate_by<false>(args.gate, operands, g, size, gradient, gate);
  }
  if (dresidual) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) dresidual[i] = from_compute<T>(g[i]);
  }
}

}  // namespace HAST_BACKEND
}  // namespace hast
