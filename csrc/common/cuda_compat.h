// The only place that includes CUDA headers, and the only way to launch a kernel. Compiled by
// another compiler, the same sources run on an emulation of CUDA that the tests put on the include
// path; it defines the built-in names and HAST_LAUNCH.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define HAST_LAUNCH(kernel, grid, block, shared, stream, ...) \
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

#else

#include <cuda_shim.h>

#endif
