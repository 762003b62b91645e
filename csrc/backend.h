// One table of operations per backend. Every function returns null, or what went wrong.
#pragma once

#include <stdint.h>

namespace hast {

struct AttentionLossArgs;
struct BatchNormActivationArgs;
struct BatchNormBackwardArgs;
struct BatchNormMatchArgs;
struct ChannelAttentionArgs;
struct DistillationLossArgs;
struct FakeQuantizeArgs;
struct FakeQuantizeBackwardArgs;
struct FakeQuantizeWeightsArgs;
struct HardSampleLossArgs;
struct MatchLossArgs;
struct PlateauStepArgs;
struct SoftRoundWeightsArgs;
struct UpdateRangeArgs;

struct Backend {
  int64_t (*update_range_scratch)(int64_t size);
  int64_t (*batch_norm_match_scratch)(int64_t outer, int64_t channels, int64_t inner);
  int64_t (*batch_norm_activation_scratch)(int64_t images, int64_t channels, int64_t spatial,
                                           bool channels_last);
  const char* (*fake_quantize)(const FakeQuantizeArgs&);
  const char* (*fake_quantize_backward)(const FakeQuantizeBackwardArgs&);
  const char* (*update_range)(const UpdateRangeArgs&);
  const char* (*fake_quantize_weights)(const FakeQuantizeWeightsArgs&);
  const char* (*batch_norm_match)(const BatchNormMatchArgs&);
  const char* (*batch_norm_activation)(const BatchNormActivationArgs&);
  const char* (*batch_norm_backward)(const BatchNormBackwardArgs&);
  const char* (*match_loss)(const MatchLossArgs&);
  const char* (*channel_attention)(const ChannelAttentionArgs&);
  const char* (*channel_attention_backward)(const ChannelAttentionArgs&);
  const char* (*attention_loss)(const AttentionLossArgs&);
  const char* (*distillation_loss)(const DistillationLossArgs&);
  const char* (*hard_sample_loss)(const HardSampleLossArgs&);
  const char* (*plateau_step)(const PlateauStepArgs&);
  const char* (*soft_round_weights)(const SoftRoundWeightsArgs&);
  const char* (*soft_round_weights_backward)(const SoftRoundWeightsArgs&);
};

const Backend& cpu_backend();   // for the instruction set of this machine
const Backend* cuda_backend();  // null if built without CUDA
const char* cpu_isa();          // the instruction set that cpu_backend() chose
const char* cuda_version();     // of the toolkit, "not built" without
int cuda_device_count();        // 0 without CUDA, a driver or a device

// Of the CUDA backend alone: see _core.pyi.
const char* cuda_capture_number(int device, void* stream, uint64_t* number);
const char* cuda_new_counters(int device, int64_t count, uint32_t** counters);

}  // namespace hast
