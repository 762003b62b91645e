// Python bindings of batch_stats.h, batch_norm_activation.h and batch_norm_backward.h.
#include "batch_norm_activation.h"
#include "batch_norm_backward.h"
#include "batch_stats.h"
#include "bindings.h"

namespace hast::bindings {

using namespace pybind11::literals;

namespace {

void batch_norm_match(Address x, Address residual, Address y, Address mean, Address var,
                      Address running_mean, Address running_var, Address weight, Address bias,
                      double eps, Address scratch, Address counters, int dtype, int64_t outer,
                      int64_t channels, int64_t inner, int activation, int device, Address stream) {
  const char* op = "batch_norm_match";
  const Checks check(op);
  const BatchNormMatchArgs args{pointer(x),
                                pointer(residual),
                                pointer(y),
                                pointer(mean),
                                pointer(var),
                                pointer(running_mean),
                                pointer(running_var),
                                pointer(weight),
                                pointer(bias),
                                eps,
                                pointer<double>(scratch),
                                pointer<uint32_t>(counters),
                                check.dtype(dtype),
                                outer,
                                channels,
                                inner,
                                check.activation(activation),
                                device,
                                pointer(stream)};
  if (check.tensor(outer, channels, inner)) {
    check.required("x", x);
    check.required("mean", mean);
    check.required("var", var);
    check.required("running_mean", running_mean);
    check.required("running_var", running_var);
    check.required("scratch", scratch);
    if (device >= 0) check.required("counters", counters);
  }
  call(op, &Backend::batch_norm_match, args);
}

void batch_norm_activation(Address x, Address residual, Address target, Address y, Address energy,
                           Address map, Address running_mean, Address running_var, Address weight,
                           Address bias, double eps, Address range, int bits, Address scratch,
                           Address counters, int dtype, int64_t images, int64_t channels,
                           int64_t spatial, bool channels_last, int activation, int device,
                           Address stream) {
  const char* op = "batch_norm_activation";
  const Checks check(op);
  const BatchNormActivationArgs args{pointer(x),
                                     pointer(residual),
                                     pointer(target),
                                     pointer(y),
                                     pointer(energy),
                                     pointer(map),
                                     pointer(running_mean),
                                     pointer(running_var),
                                     pointer(weight),
                                     pointer(bias),
                                     eps,
                                     pointer(range),
                                     range == 0 ? 0 : check.bits(bits),
                                     pointer<double>(scratch),
                                     pointer<uint32_t>(counters),
                                     check.dtype(dtype),
                                     images,
                                     channels,
                                     spatial,
                                     channels_last,
                                     check.activation(activation),
                                     device,
                                     pointer(stream)};
  if (target != 0 && energy == 0) check.fail("target goes with energy");
  if (check.tensor(images, channels, spatial)) {
    check.required("x", x);
    check.required("y", y);
    check.required("running_mean", running_mean);
    check.required("running_var", running_var);
    if (energy != 0 && channels_last && device >= 0) {
      check.required("scratch", scratch);
      check.required("counters", counters);
    }
  }
  call(op, &Backend::batch_norm_activation, args);
}

void batch_norm_backward(Address x, Address y, Address residual, Address target, Address dy,
                         Address dy2, Address dmean, Address dvar, Address denergy, Address dmap,
                         Address mean, Address running_mean, Address running_var, Address weight,
                         Address bias, double eps, Address range, int bits, Address dx,
                         Address dresidual, Address dtarget, Address dweight, Address dbias,
                         Address scratch, Address counters, int dtype, int64_t outer,
                         int64_t channels, int64_t inner, int64_t images, int activation, int gate,
                         int device, Address stream) {
  const char* op = "batch_norm_backward";
  const Checks check(op);
  if (gate < 0 || gate > 2) check.fail("gate must be in 0..2, got " + std::to_string(gate));
  const BatchNormBackwardArgs args{pointer(x),
                                   pointer(y),
                                   pointer(residual),
                                   pointer(target),
                                   pointer(dy),
                                   pointer(dy2),
                                   pointer(dmean),
                                   pointer(dvar),
                                   pointer(denergy),
                                   pointer(dmap),
                                   pointer(mean),
                                   pointer(running_mean),
                                   pointer(running_var),
                                   pointer(weight),
                                   pointer(bias),
                                   eps,
                                   pointer(range),
                                   range == 0 ? 0 : check.bits(bits),
                                   pointer(dx),
                                   pointer(dresidual),
                                   pointer(dtarget),
                                   pointer(dweight),
                                   pointer(dbias),
                                   pointer<double>(scratch),
                                   pointer<uint32_t>(counters),
                                   check.dtype(dtype),
                                   outer,
                                   channels,
                                   inner,
                                   images,
                                   check.activation(activation),
                                   static_cast<Gate>(gate),
                                   device,
                                   pointer(stream)};
  if ((dweight == 0) != (dbias == 0)) check.fail("dweight and dbias go together");
  if (dtarget != 0 && (target == 0 || denergy == 0)) {
    check.fail("dtarget goes with target and denergy");
  }
  if (check.tensor(outer, channels, inner)) {
    if (args.reads_x()) check.required("x", x);
    check.required("running_mean", running_mean);
    check.required("running_var", running_var);
    if (dvar != 0) check.required("mean", mean);
    if (dy != 0 && args.gate == Gate::kOutput) check.required("y", y);
    if (denergy != 0 && (images < 1 || outer % images != 0)) {
      check.fail("images must divide outer, got " + std::to_string(images));
    }
    if (dweight != 0) {
      check.required("scratch", scratch);
      if (device >= 0) check.required("counters", counters);
    }
  }
  call(op, &Backend::batch_norm_backward, args);
}

int64_t batch_stats_scratch(int64_t outer, int64_t channels, int64_t inner, int device) {
  const Checks check("batch_stats_scratch");
  check.tensor(outer, channels, inner);
  return backend_of("batch_stats_scratch", device).batch_stats_scratch(outer, channels, inner);
}

int64_t batch_norm_activation_scratch(int64_t images, int64_t channels, int64_t spatial,
                                      bool channels_last, int device) {
  const char* op = "batch_norm_activation_scratch";
  const Checks check(op);
  check.tensor(images, channels, spatial);
  return backend_of(op, device)
      .batch_norm_activation_scratch(images, channels, spatial, channels_last);
}

}  // namespace

void define_batch_norm(pybind11::module_& module) {
  module.def("batch_norm_match", &batch_norm_match, "x"_a, "residual"_a, "y"_a, "mean"_a, "var"_a,
             "running_mean"_a, "running_var"_a, "weight"_a, "bias"_a, "eps"_a, "scratch"_a,
             "counters"_a, "dtype"_a, "outer"_a, "channels"_a, "inner"_a, "activation"_a,
             "device"_a, "stream"_a);
  module.def("batch_norm_activation", &batch_norm_activation, "x"_a, "residual"_a, "target"_a,
             "y"_a, "energy"_a, "map"_a, "running_mean"_a, "running_var"_a, "weight"_a, "bias"_a,
             "eps"_a, "range"_a, "bits"_a, "scratch"_a, "counters"_a, "dtype"_a, "images"_a,
             "channels"_a, "spatial"_a, "channels_last"_a, "activation"_a, "device"_a, "stream"_a);
  module.def("batch_norm_backward", &batch_norm_backward, "x"_a, "y"_a, "residual"_a, "target"_a,
             "dy"_a, "dy2"_a, "dmean"_a, "dvar"_a, "denergy"_a, "dmap"_a, "mean"_a,
             "running_mean"_a, "running_var"_a, "weight"_a, "bias"_a, "eps"_a, "range"_a, "bits"_a,
             "dx"_a, "dresidual"_a, "dtarget"_a, "dweight"_a, "dbias"_a, "scratch"_a, "counters"_a,
             "dtype"_a, "outer"_a, "channels"_a, "inner"_a, "images"_a, "activation"_a, "gate"_a,
             "device"_a, "stream"_a);
  module.def("batch_stats_scratch", &batch_stats_scratch, "outer"_a, "channels"_a, "inner"_a,
             "device"_a);
  module.def("batch_norm_activation_scratch", &batch_norm_activation_scratch, "images"_a,
             "channels"_a, "spatial"_a, "channels_last"_a, "device"_a);
}

}  // namespace hast::bindings
