// What can be asked of CUDA without a kernel.
#include "common/cuda_compat.h"
#include "common/portability.h"

namespace hast {
inline namespace HAST_BACKEND {

int device_count();

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // no driver or no device is an answer here, not an error for the next call
  return 0;
}

}  // namespace HAST_BACKEND
}  // namespace hast
