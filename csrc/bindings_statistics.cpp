// Python bindings of match_loss.h.
#include "bindings.h"
#include "match_loss.h"

namespace hast::bindings {

using namespace pybind11::literals;

namespace {

void match_loss(const Addresses& means, const Addresses& variances, const Addresses& running_means,
                const Addresses& running_vars, const Sizes& channels, Address loss,
                Address gradient, int dtype, int reduction, int device, Address stream) {
  const char* op = "match_loss";
  const Checks check(op);
  check.size("the number of layers", static_cast<int64_t>(means.size()), 1);
  check.length("variances", variances.size(), means.size());
  check.length("running_means", running_means.size(), means.size());
  check.length("running_vars", running_vars.size(), means.size());
  check.length("channels", channels.size(), means.size());
  if (reduction < 0 || reduction > 2) {
    check.fail("unknown reduction code " + std::to_string(reduction) + ", expected 0..2");
  }
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
                     pointer(gradient), check.dtype(dtype), static_cast<MatchReduction>(reduction),
                     device, pointer(stream)});
}

}  // namespace

void define_statistics(pybind11::module_& module) {
  module.def("match_loss", &match_loss, "means"_a, "variances"_a, "running_means"_a,
             "running_vars"_a, "channels"_a, "loss"_a, "gradient"_a, "dtype"_a, "reduction"_a,
             "device"_a, "stream"_a);
}

}  // namespace hast::bindings
