// Python bindings of batch_stats.h and match_loss.h.
#include "batch_stats.h"
#include "bindings.h"
#include "match_loss.h"

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

void batch_norm_match_backward(Address x, Address y, Address dy, Address dmean, Address dvar,
                               Address mean, Address running_mean, Address running_var,
                               Address weight, double eps, Address dx, Address dresidual,
                               Address dweight, Address dbias, Address scratch, Address counters,
                               int dtype, int64_t outer, int64_t channels, int64_t inner,
                               int activation, int device, Address stream) {
  const char* op = "batch_norm_match_backward";
  const Checks check(op);
  const BatchNormMatchBackwardArgs args{pointer(x),
                                        pointer(y),
                                        pointer(dy),
                                        pointer(dmean),
                                        pointer(dvar),
                                        pointer(mean),
                                        pointer(running_mean),
                                        pointer(running_var),
                                        pointer(weight),
                                        eps,
                                        pointer(dx),
                                        pointer(dresidual),
                                        pointer(dweight),
                                        pointer(dbias),
                                        pointer<double>(scratch),
                                        pointer<uint32_t>(counters),
                                        check.dtype(dtype),
                                        outer,
                                        channels,
                                        inner,
                                        check.activation(activation),
                                        device,
                                        pointer(stream)};
  if ((dweight == 0) != (dbias == 0)) check.fail("dweight and dbias go together");
  if (check.tensor(outer, channels, inner)) {
    check.required("x", x);
    check.required("running_mean", running_mean);
    check.required("running_var", running_var);
    if (dvar != 0) check.required("mean", mean);
    if (dy != 0 && activation != 0) check.required("y", y);
    if (dweight != 0) {
      check.required("scratch", scratch);
      if (device >= 0) check.required("counters", counters);
    }
  }
  call(op, &Backend::batch_norm_match_backward, args);
}

void match_loss(const Addresses& means, const Addresses& variances, const Addresses& running_means,
                const Addresses& running_vars, const Sizes& channels, Address loss,
                Address gradient, int dtype, bool norm, int device, Address stream) {
  const char* op = "match_loss";
  const Checks check(op);
  check.size("the number of layers", static_cast<int64_t>(means.size()), 1);
  check.length("variances", variances.size(), means.size());
  check.length("running_means", running_means.size(), means.size());
  check.length("running_vars", running_vars.size(), means.size());
  check.length("channels", channels.size(), means.size());
  check.required("loss", loss);
  check.required("gradient", gradient);
  std::vector<MatchedLayer> layers;
  for (size_t i = 0; i < means.size(); ++i) {
    check.size("channels", channels[i], 1);
    check.required("means", means[i]);
    check.required("variances", variances[i]);
    check.required("running_means", running_means[i]);
    check.required("running_vars", running_vars[i]);
    layers.push_back({pointer(means[i]), pointer(variances[i]), pointer(running_means[i]),
                      pointer(running_vars[i]), channels[i]});
  }
  call(op, &Backend::match_loss,
       MatchLossArgs{layers.data(), static_cast<int64_t>(layers.size()), pointer(loss),
                     pointer(gradient), check.dtype(dtype), norm, device, pointer(stream)});
}

int64_t batch_stats_scratch(int64_t outer, int64_t channels, int64_t inner, int device) {
  const Checks check("batch_stats_scratch");
  check.tensor(outer, channels, inner);
  return backend_of("batch_stats_scratch", device).batch_stats_scratch(outer, channels, inner);
}

}  // namespace

void define_statistics(pybind11::module_& module) {
  module.def("batch_norm_match", &batch_norm_match, "x"_a, "residual"_a, "y"_a, "mean"_a, "var"_a,
             "running_mean"_a, "running_var"_a, "weight"_a, "bias"_a, "eps"_a, "scratch"_a,
             "counters"_a, "dtype"_a, "outer"_a, "channels"_a, "inner"_a, "activation"_a,
             "device"_a, "stream"_a);
  module.def("batch_norm_match_backward", &batch_norm_match_backward, "x"_a, "y"_a, "dy"_a,
             "dmean"_a, "dvar"_a, "mean"_a, "running_mean"_a, "running_var"_a, "weight"_a, "eps"_a,
             "dx"_a, "dresidual"_a, "dweight"_a, "dbias"_a, "scratch"_a, "counters"_a, "dtype"_a,
             "outer"_a, "channels"_a, "inner"_a, "activation"_a, "device"_a, "stream"_a);
  module.def("match_loss", &match_loss, "means"_a, "variances"_a, "running_means"_a,
             "running_vars"_a, "channels"_a, "loss"_a, "gradient"_a, "dtype"_a, "norm"_a,
             "device"_a, "stream"_a);
  module.def("batch_stats_scratch", &batch_stats_scratch, "outer"_a, "channels"_a, "inner"_a,
             "device"_a);
}

}  // namespace hast::bindings
