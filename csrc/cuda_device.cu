// What can be asked of CUDA without a kernel.
#include "common/cuda_launch.h"

namespace hast {
inline namespace HAST_BACKEND {

int device_count();
const char* capture_number(int device, void* stream, uint64_t* number);
const char* new_counters(int device, int64_t count, uint32_t** counters);

int device_count() {
  int count = 0;
  return error_of(cudaGetDeviceCount(&count)) ? 0 : count;  // no driver or no device is an answer
}

const char* capture_number(int device, void* stream, uint64_t* number) {
  return on_device(device, [&] {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    unsigned long long id = 0;
    const auto given = static_cast<cudaStream_t>(stream);
    const char* error = error_of(cudaStreamGetCaptureInfo(given, &status, &id));
    *number = status == cudaStreamCaptureStatusNone ? 0 : id;
    return error;
  });
}

namespace {

// Lets this thread call what is otherwise refused while any thread captures a graph.
class DuringCapture {
 public:
  DuringCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~DuringCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  DuringCapture(const DuringCapture&) = delete;
  DuringCapture& operator=(const DuringCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// On a stream of its own, which no capture records and which waits for no other.
cudaError_t zeroed(void** memory, size_t bytes) {
  cudaStream_t stream = nullptr;
  cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (status != cudaSuccess) return status;
  status = cudaMalloc(memory, bytes);
  if (status == cudaSuccess) status = cudaMemsetAsync(*memory, 0, bytes, stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  return status;
}

}  // namespace

const char* new_counters(int device, int64_t count, uint32_t** counters) {
  return on_device(device, [&] {
    const DuringCapture allowed;
    void* memory = nullptr;
    const char* error = error_of(zeroed(&memory, static_cast<size_t>(count) * sizeof(uint32_t)));
    *counters = static_cast<uint32_t*>(memory);
    return error;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
