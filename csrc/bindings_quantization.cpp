// Python bindings of fake_quantize.h, fake_quantize_weights.h, soft_round_weights.h and
// update_range.h.
#include "bindings.h"
#include "fake_quantize.h"
#include "fake_quantize_weights.h"
#include "soft_round_weights.h"
#include "update_range.h"

namespace hast::bindings {
namespace {

void check_fake_quantize(const Checks& check, const FakeQuantizeArgs& args) {
  check.bits(args.bits);
  if (!check.tensor(args.outer, args.channels, args.inner)) return;
  check.required("x", args.x);
  check.required("y", args.y);
  check.required("lower", args.lower);
  check.required("upper", args.upper);
}

void check_fake_quantize_backward(const Checks& check, const FakeQuantizeBackwardArgs& args) {
  check.bits(args.bits);
  if (!check.tensor(args.outer, args.channels, args.inner)) return;
  check.required("x", args.x);
  check.required("dy", args.dy);
  check.required("dx", args.dx);
  if (!args.clipped) return;
  check.required("lower", args.lower);
  check.required("upper", args.upper);
}

void check_weights(const Checks& check, const FakeQuantizeWeightsArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const WeightTensor& tensor = args.tensors[i];
    check.bits(tensor.bits);
    if (!check.tensor(tensor.rows, tensor.columns, 1)) continue;
    check.required("weights", tensor.weight);
    check.required("outputs", tensor.output);
  }
}

void check_soft_rounding(const Checks& check, const SoftRoundWeightsArgs& args) {
  check.size("weights", args.count, 1);
  for (int64_t i = 0; i < args.count; ++i) {
    const SoftRoundedWeight& weight = args.weights[i];
    check.bits(weight.bits);
    check.size("rows", weight.rows, 1);
    check.size("columns", weight.columns, 1);
    check.tensor(weight.rows, weight.columns, 1);
    check.required("bases", weight.base);
    check.required("roundings", weight.rounding);
    check.required("steps", weight.step);
    check.required("lows", weight.low);
  }
}

void check_soft_round_weights(const Checks& check, const SoftRoundWeightsArgs& args) {
  check_soft_rounding(check, args);
  for (int64_t i = 0; i < args.count; ++i) check.required("weights", args.weights[i].weight);
  if (!args.beta) return;
  check.required("regulariser", args.regulariser);
  check.required("scratch", args.scratch);
  check.counters(args);
}

void check_soft_round_weights_backward(const Checks& check, const SoftRoundWeightsArgs& args) {
  check_soft_rounding(check, args);
  for (int64_t i = 0; i < args.count; ++i) {
    check.required("rounding_gradients", args.weights[i].rounding_gradient);
    check.required("step_gradients", args.weights[i].step_gradient);
  }
  if (args.regulariser_gradient) check.required("beta", args.beta);
}

void check_update_range(const Checks& check, const UpdateRangeArgs& args) {
  if (!check.tensor(1, 1, args.size)) return;
  check.required("x", args.x);
  check.required("state", args.state);
  check.required("scratch", args.scratch);
  check.counters(args);
}

int64_t update_range_scratch(int64_t size, int device) {
  const char* op = "update_range_scratch";
  Checks(op).tensor(1, 1, size);
  return backend_of(op, device).update_range_scratch(size);
}

void define_fake_quantize(pybind11::module_& module) {
  using Args = FakeQuantizeArgs;
  define(module, "fake_quantize", &Backend::fake_quantize, check_fake_quantize, HAST_FIELD(x),
         HAST_FIELD(y), HAST_FIELD(lower), HAST_FIELD(upper), HAST_FIELD(dtype), HAST_FIELD(outer),
         HAST_FIELD(channels), HAST_FIELD(inner), HAST_FIELD(bits), HAST_FIELD(real_zero_point),
         HAST_FIELD(activation), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_fake_quantize_backward(pybind11::module_& module) {
  using Args = FakeQuantizeBackwardArgs;
  define(module, "fake_quantize_backward", &Backend::fake_quantize_backward,
         check_fake_quantize_backward, HAST_FIELD(x), HAST_FIELD(dy), HAST_FIELD(dx),
         HAST_FIELD(lower), HAST_FIELD(upper), HAST_FIELD(dtype), HAST_FIELD(outer),
         HAST_FIELD(channels), HAST_FIELD(inner), HAST_FIELD(bits), HAST_FIELD(real_zero_point),
         HAST_FIELD(activation), HAST_FIELD(clipped), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_fake_quantize_weights(pybind11::module_& module) {
  using Args = FakeQuantizeWeightsArgs;
  define(module, "fake_quantize_weights", &Backend::fake_quantize_weights, check_weights,
         &Args::tensors,
         Columns(Field{"weights", &WeightTensor::weight}, Field{"outputs", &WeightTensor::output},
                 Field{"ranges", &WeightTensor::range}, Field{"rows", &WeightTensor::rows},
                 Field{"columns", &WeightTensor::columns}, Field{"bits", &WeightTensor::bits}),
         HAST_FIELD(dtype), HAST_FIELD(real_zero_point), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_soft_round_weights(pybind11::module_& module) {
  using Args = SoftRoundWeightsArgs;
  using Row = SoftRoundedWeight;
  define(module, "soft_round_weights", &Backend::soft_round_weights, check_soft_round_weights,
         &Args::weights,
         Columns(Field{"bases", &Row::base}, Field{"roundings", &Row::rounding},
                 Field{"steps", &Row::step}, Field{"lows", &Row::low},
                 Field{"weights", &Row::weight}, Field{"rows", &Row::rows},
                 Field{"columns", &Row::columns}, Field{"bits", &Row::bits}),
         HAST_FIELD(beta), HAST_FIELD(regulariser), HAST_FIELD(scratch), HAST_FIELD(counters),
         HAST_FIELD(dtype), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_soft_round_weights_backward(pybind11::module_& module) {
  using Args = SoftRoundWeightsArgs;
  using Row = SoftRoundedWeight;
  define(module, "soft_round_weights_backward", &Backend::soft_round_weights_backward,
         check_soft_round_weights_backward, &Args::weights,
         Columns(Field{"gradients", &Row::gradient}, Field{"bases", &Row::base},
                 Field{"roundings", &Row::rounding}, Field{"steps", &Row::step},
                 Field{"lows", &Row::low}, Field{"rounding_gradients", &Row::rounding_gradient},
                 Field{"step_gradients", &Row::step_gradient}, Field{"rows", &Row::rows},
                 Field{"columns", &Row::columns}, Field{"bits", &Row::bits}),
         HAST_FIELD(regulariser_gradient), HAST_FIELD(beta), HAST_FIELD(dtype), HAST_FIELD(device),
         HAST_FIELD(stream));
}

void define_update_range(pybind11::module_& module) {
  using Args = UpdateRangeArgs;
  define(module, "update_range", &Backend::update_range, check_update_range, HAST_FIELD(x),
         HAST_FIELD(state), HAST_FIELD(scratch), HAST_FIELD(counters), HAST_FIELD(dtype),
         HAST_FIELD(size), HAST_FIELD(activation), HAST_FIELD(beta), HAST_FIELD(released),
         HAST_FIELD(device), HAST_FIELD(stream));
  module.def("update_range_scratch", &update_range_scratch, pybind11::kw_only(),
             pybind11::arg("size"), pybind11::arg("device"));
}

}  // namespace

void define_quantization(pybind11::module_& module) {
  define_fake_quantize(module);
  define_fake_quantize_backward(module);
  define_fake_quantize_weights(module);
  define_soft_round_weights(module);
  define_soft_round_weights_backward(module);
  define_update_range(module);
}

}  // namespace hast::bindings
