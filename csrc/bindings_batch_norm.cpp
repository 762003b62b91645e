// Python bindings of batch_norm_match.h, batch_norm_activation.h and batch_norm_backward.h.
#include "batch_norm_activation.h"
#include "batch_norm_backward.h"
#include "batch_norm_match.h"
#include "bindings.h"

namespace hast::bindings {

template <>
inline constexpr int kCodes<Gate> = 3;

namespace {

void check_match(const Checks& check, const BatchNormMatchArgs& args) {
  if (!check.tensor(args.outer, args.channels, args.inner)) return;
  check.required("x", args.x);
  check.required("mean", args.mean);
  check.required("var", args.var);
  check.required("running_mean", args.running_mean);
  check.required("running_var", args.running_var);
  check.required("scratch", args.scratch);
  check.counters(args);
}

void check_activation(const Checks& check, const BatchNormActivationArgs& args) {
  if (args.range) check.bits(args.bits);
  if (args.target && !args.energy) check.fail("target goes with energy");
  if (!check.tensor(args.images, args.channels, args.spatial)) return;
  check.required("x", args.x);
  check.required("y", args.y);
  check.required("running_mean", args.running_mean);
  check.required("running_var", args.running_var);
  if (args.energy && args.channels_last && args.device >= 0) {
    check.required("scratch", args.scratch);
    check.counters(args);
  }
}

void check_backward(const Checks& check, const BatchNormBackwardArgs& args) {
  if (args.range) check.bits(args.bits);
  if (!args.dweight != !args.dbias) check.fail("dweight and dbias go together");
  if (args.dtarget && (!args.target || !args.denergy)) {
    check.fail("dtarget goes with target and denergy");
  }
  if (!check.tensor(args.outer, args.channels, args.inner)) return;
  if (args.reads_x()) check.required("x", args.x);
  check.required("running_mean", args.running_mean);
  check.required("running_var", args.running_var);
  if (args.dvar) check.required("mean", args.mean);
  if (args.dy && args.gate == Gate::kOutput) check.required("y", args.y);
  if (args.denergy && (args.images < 1 || args.outer % args.images != 0)) {
    check.fail("images must divide outer, got " + std::to_string(args.images));
  }
  if (args.dweight) {
    check.required("scratch", args.scratch);
    check.counters(args);
  }
}

int64_t match_scratch(int64_t outer, int64_t channels, int64_t inner, int device) {
  const char* op = "batch_norm_match_scratch";
  Checks(op).tensor(outer, channels, inner);
  return backend_of(op, device).batch_norm_match_scratch(outer, channels, inner);
}

int64_t activation_scratch(int64_t images, int64_t channels, int64_t spatial, bool channels_last,
                           int device) {
  const char* op = "batch_norm_activation_scratch";
  Checks(op).tensor(images, channels, spatial);
  return backend_of(op, device)
      .batch_norm_activation_scratch(images, channels, spatial, channels_last);
}

void define_match(pybind11::module_& module) {
  using Args = BatchNormMatchArgs;
  define(module, "batch_norm_match", &Backend::batch_norm_match, check_match, HAST_FIELD(x),
         HAST_FIELD(residual), HAST_FIELD(y), HAST_FIELD(mean), HAST_FIELD(var),
         HAST_FIELD(running_mean), HAST_FIELD(running_var), HAST_FIELD(weight), HAST_FIELD(bias),
         HAST_FIELD(eps), HAST_FIELD(scratch), HAST_FIELD(counters), HAST_FIELD(dtype),
         HAST_FIELD(outer), HAST_FIELD(channels), HAST_FIELD(inner), HAST_FIELD(activation),
         HAST_FIELD(device), HAST_FIELD(stream));
  module.def("batch_norm_match_scratch", &match_scratch, pybind11::kw_only(),
             pybind11::arg("outer"), pybind11::arg("channels"), pybind11::arg("inner"),
             pybind11::arg("device"));
}

void define_activation(pybind11::module_& module) {
  using Args = BatchNormActivationArgs;
  define(module, "batch_norm_activation", &Backend::batch_norm_activation, check_activation,
         HAST_FIELD(x), HAST_FIELD(residual), HAST_FIELD(target), HAST_FIELD(y), HAST_FIELD(energy),
         HAST_FIELD(map), HAST_FIELD(running_mean), HAST_FIELD(running_var), HAST_FIELD(weight),
         HAST_FIELD(bias), HAST_FIELD(eps), HAST_FIELD(range), HAST_FIELD(bits),
         HAST_FIELD(scratch), HAST_FIELD(counters), HAST_FIELD(dtype), HAST_FIELD(images),
         HAST_FIELD(channels), HAST_FIELD(spatial), HAST_FIELD(channels_last),
         HAST_FIELD(activation), HAST_FIELD(device), HAST_FIELD(stream));
  module.def("batch_norm_activation_scratch", &activation_scratch, pybind11::kw_only(),
             pybind11::arg("images"), pybind11::arg("channels"), pybind11::arg("spatial"),
             pybind11::arg("channels_last"), pybind11::arg("device"));
}

void define_backward(pybind11::module_& module) {
  using Args = BatchNormBackwardArgs;
  define(module, "batch_norm_backward", &Backend::batch_norm_backward, check_backward,
         HAST_FIELD(x), HAST_FIELD(y), HAST_FIELD(residual), HAST_FIELD(target), HAST_FIELD(dy),
         HAST_FIELD(dy2), HAST_FIELD(dmean), HAST_FIELD(dvar), HAST_FIELD(denergy),
         HAST_FIELD(dmap), HAST_FIELD(mean), HAST_FIELD(running_mean), HAST_FIELD(running_var),
         HAST_FIELD(weight), HAST_FIELD(bias), HAST_FIELD(eps), HAST_FIELD(range), HAST_FIELD(bits),
         HAST_FIELD(dx), HAST_FIELD(dresidual), HAST_FIELD(dtarget), HAST_FIELD(dweight),
         HAST_FIELD(dbias), HAST_FIELD(scratch), HAST_FIELD(counters), HAST_FIELD(dtype),
         HAST_FIELD(outer), HAST_FIELD(channels), HAST_FIELD(inner), HAST_FIELD(images),
         HAST_FIELD(activation), HAST_FIELD(gate), HAST_FIELD(device), HAST_FIELD(stream));
}

}  // namespace

void define_batch_norm(pybind11::module_& module) {
  define_match(module);
  define_activation(module);
  define_backward(module);
}

}  // namespace hast::bindings
