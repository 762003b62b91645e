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
const char* capture_number(int device, void* stream, uint64_t* number);
const char* new_counters(int device, int64_t count, uint32_t** counters);
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

#ifdef HAST_WITH_CUDA
const char* cuda_capture_number(int device, void* stream, uint64_t* number) {
  return cuda::capture_number(device, stream, number);
}

const char* cuda_new_counters(int device, int64_t count, uint32_t** counters) {
  return cuda::new_counters(device, count, counters);
}
#else
const char* cuda_capture_number(int, void*, uint64_t*) { return "built without CUDA"; }
const char* cuda_new_counters(int, int64_t, uint32_t**) { return "built without CUDA"; }
#endif

}  // namespace hast
