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

void check_device(const char* op, int device) {
  if (device < 0) Checks(op).fail("device must be a CUDA index, got " + std::to_string(device));
}

uint64_t capture_number(int device, uintptr_t stream) {
  const char* op = "capture_number";
  check_device(op, device);
  uint64_t number = 0;
  raise(op, cuda_capture_number(device, reinterpret_cast<void*>(stream), &number));
  return number;
}

uintptr_t new_counters(int64_t count, int device) {
  const char* op = "new_counters";
  Checks(op).tensor(1, 1, count);
  check_device(op, device);
  uint32_t* counters = nullptr;
  raise(op, [&] {
    const pybind11::gil_scoped_release release;
    return cuda_new_counters(device, count, &counters);
  }());
  return reinterpret_cast<uintptr_t>(counters);
}

}  // namespace
}  // namespace hast::bindings

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
  module.doc() = "The compiled core of hast_cuda; private, see hast_cuda.ops.";
  module.def("build_info", &hast::bindings::build_info);
  module.def("cuda_device_count", &hast::cuda_device_count);
  module.def("capture_number", &hast::bindings::capture_number, pybind11::kw_only(),
             pybind11::arg("device"), pybind11::arg("stream"));
  module.def("new_counters", &hast::bindings::new_counters, pybind11::kw_only(),
             pybind11::arg("count"), pybind11::arg("device"));
  hast::bindings::define_quantization(module);
  hast::bindings::define_batch_norm(module);
  hast::bindings::define_losses(module);
}
