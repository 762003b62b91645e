// The table of one backend; compiled once per backend, with its HAST_BACKEND.
#include "attention_loss.h"
#include "backend.h"
#include "batch_norm_activation.h"
#include "batch_norm_backward.h"
#include "batch_norm_match.h"
#include "channel_attention.h"
#include "distillation_loss.h"
#include "fake_quantize.h"
#include "fake_quantize_weights.h"
#include "hard_sample_loss.h"
#include "match_loss.h"
#include "plateau.h"
#include "soft_round_weights.h"
#include "update_range.h"

namespace hast {
inline namespace HAST_BACKEND {

const Backend& backend();

const Backend& backend() {
  static constexpr Backend table = {
      update_range_scratch,
      batch_norm_match_scratch,
      batch_norm_activation_scratch,
      fake_quantize,
      fake_quantize_backward,
      update_range,
      fake_quantize_weights,
      batch_norm_match,
      batch_norm_activation,
      batch_norm_backward,
      match_loss,
      channel_attention,
      channel_attention_backward,
      attention_loss,
      distillation_loss,
      hard_sample_loss,
      plateau_step,
      soft_round_weights,
      soft_round_weights_backward,
  };
  return table;
}

}  // namespace HAST_BACKEND
}  // namespace hast
