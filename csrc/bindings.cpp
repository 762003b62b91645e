// The Python module: integers in (addresses, sizes, codes), exceptions out. hast_cuda/_core.pyi is
// its contract and its documentation.
#include "bindings.h"

#include <map>

namespace hast::bindings {
namespace {

std::map<std::string, std::string> build_info() {
#if defined(__clang__)
  const char* compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
  const char* compiler = "gcc " __VERSION__;
#else
  const char* compiler = "unknown";
#endif
#ifdef HAST_WITH_OPENMP
  const char* openmp = "yes";
#else
  const char* openmp = "no";
#endif
  return {{"version", HAST_VERSION}, {"compiler", compiler},
          {"cuda", cuda_version()},  {"cuda_architectures", HAST_CUDA_ARCHITECTURES},
          {"cpu_isa", cpu_isa()},    {"openmp", openmp}};
}

}  // namespace
}  // namespace hast::bindings

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The compiled core of hast_cuda; private, see hast_cuda.ops.";
  module.def("build_info", &hast::bindings::build_info);
  module.def("cuda_device_count", &hast::cuda_device_count);
  hast::bindings::define_quantization(module);
  hast::bindings::define_batch_norm(module);
  hast::bindings::define_losses(module);
}
