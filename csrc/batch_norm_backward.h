// The gradient of batch_norm_match and of batch_norm_activation. K, a: batch_norm.h; n = outer *
// inner elements per channel, s = sqrt(running_var + eps), u = a*(x - K) + bias.
//
//   g = dy where the activation passes            dresidual = g
//   du = g + dmap + 2*denergy*(u - target)        dbias = sum(du)
//   dx = a*du + dmean/n + 2*dvar*(x - mean)/n     dweight = sum(du*(x - K)) / s
//   dtarget = -2*denergy*(u - target)
#pragma once

#include "batch_norm.h"
#include "common/activation.h"
#include "common/dtype.h"
#include "fake_quantize.h"

namespace hast {

// Where dy passes an activation (and a clipped quantizer) is decided by; without either, by
// nothing.
enum class Gate : int {
  kNone = 0,    // nothing: it passes everywhere
  kOutput = 1,  // the saved output y
  kInput = 2,   // the output's value before the activation, recomputed from x and the residual
};

struct BatchNormBackwardArgs {
  const void* x;
  const void* y;         // kOutput only
  const void* residual;  // kInput only; null: 0
  const void* target;    // read only with denergy; null: 0
  const void* dy;        // null: 0
  const void* dy2;       // added to dy, where y went two ways; null: 0
  const void* dmean;     // null: 0
  const void* dvar;      // null: 0
  const void* denergy;   // fp[images, channels], null: 0
  const void* dmap;      // null: 0
  const void* mean;      // read only with dvar
  const void* running_mean;
  const void* running_var;
  const void* weight;  // null: 1
  const void* bias;    // null: 0
  double eps;
  const void* range;  // fp[2], kInput only: also stop dy where the quantizer's code is clamped
  int bits;
  void* dx;         // or null
  void* dresidual;  // or null
  void* dtarget;    // or null; with denergy and target
  void* dweight;    // dweight and dbias: both or neither
  void* dbias;
  double* scratch;
  uint32_t* counters;
  DType dtype;
  int64_t outer, channels, inner;
  int64_t images;  // outer is images, or images * spatial of channels-last data
  Activation activation;
  Gate gate;
  int device;
  void* stream;

  HAST_HOST_DEVICE bool reads_x() const {
    return dweight || denergy || (dx && dvar) || gate == Gate::kInput;
  }

  // With no gate where there is nothing to gate: neither an activation nor a clipped quantizer.
  BatchNormBackwardArgs settled() const {
    BatchNormBackwardArgs args = *this;
    if (activation == Activation::kNone && !(gate == Gate::kInput && range))
      args.gate = Gate::kNone;
    return args;
  }
};

inline namespace HAST_BACKEND {

const char* batch_norm_backward(const BatchNormBackwardArgs& args);

// dx = scale*du + constant + slope*(x - center)
template <typename F>
struct GradientChannel {
  AffineChannel<F> affine;
  F constant, slope, center;
};

template <typename F>
HAST_HOST_DEVICE GradientChannel<F> gradient_channel(const BatchNormBackwardArgs& args,
                                                     int64_t channel) {
  const F* dmean = static_cast<const F*>(args.dmean);
  const F* dvar = static_cast<const F*>(args.dvar);
  const F count = static_cast<F>(args.outer) * static_cast<F>(args.inner);
  return {affine_channel<F>(args, channel), dmean ? dmean[channel] / count : F(0),
          dvar ? F(2) * dvar[channel] / count : F(0),
          dvar ? static_cast<const F*>(args.mean)[channel] : F(0)};
}

template <typename F>
HAST_HOST_DEVICE void finish_affine_gradient(const BatchNormBackwardArgs& args, int64_t channel,
                                             double sum, double product) {
  const double variance = static_cast<double>(static_cast<const F*>(args.running_var)[channel]);
  static_cast<F*>(args.dbias)[channel] = static_cast<F>(sum);
  static_cast<F*>(args.dweight)[channel] =
      static_cast<F>(product / square_root(variance + args.eps));
}

// Whether dy passes where the value before the activation is v.
template <typename F>
struct InputGate {
  Quantizer<F> quantizer;  // of a clipped gradient
  F half, top;
  bool activated, clipped;

  HAST_HOST_DEVICE bool operator()(F v) const {
    return (!activated || passes_gradient(v, top)) &&
           (!clipped || code_in_range(quantizer, v, half));
  }
};

template <typename F>
HAST_HOST_DEVICE InputGate<F> input_gate(const BatchNormBackwardArgs& args) {
  InputGate<F> gate = {};
  gate.activated = args.activation != Activation::kNone;
  gate.top = gradient_top<F>(args.activation);
  gate.clipped = args.range != nullptr;
  if (gate.clipped) {
    const F* range = static_cast<const F*>(args.range);
    gate.half = static_cast<F>(1 << (args.bits - 1));
    // Without its activation: where the gradient passes, the activation is the identity.
    gate.quantizer = make_quantizer(range[0], range[1], args.bits, false, Activation::kNone);
  }
  return gate;
}

}  // namespace HAST_BACKEND
}  // namespace hast
