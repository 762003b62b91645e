// The choice of a backend; compiled once, for the baseline instruction set.
#include "backend.h"

namespace hast {

namespace cpu_baseline {
const Backend& backend();
}

#ifdef HAST_WITH_AVX2
namespace cpu_avx2 {
const Backend& backend();
}
#endif

#ifdef HAST_WITH_CUDA
namespace cuda {
const Backend& backend();
int device_count();
}  // namespace cuda
#endif

namespace {

bool use_avx2() {
#ifdef HAST_WITH_AVX2
  static const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                                __builtin_cpu_supports("f16c");
  return supported;
#else
  return false;
#endif
}

}  // namespace

const Backend& cpu_backend() {
#ifdef HAST_WITH_AVX2
  if (use_avx2()) return cpu_avx2::backend();
#endif
  return cpu_baseline::backend();
}

const char* cpu_isa() { return use_avx2() ? "avx2" : "baseline"; }

const Backend* cuda_backend() {
#ifdef HAST_WITH_CUDA
  return &cuda::backend();
#else
  return nullptr;
#endif
}

const char* cuda_version() {
#ifdef HAST_WITH_CUDA
  return HAST_CUDA_VERSION;
#else
  return "not built";
#endif
}

int cuda_device_count() {
#ifdef HAST_WITH_CUDA
  return cuda::device_count();
#else
  return 0;
#endif
}

}  // namespace hast
