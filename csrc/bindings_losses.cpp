// Python bindings of match_loss.h, channel_attention.h, attention_loss.h, distillation_loss.h,
// hard_sample_loss.h and plateau.h.
#include "attention_loss.h"
#include "bindings.h"
#include "channel_attention.h"
#include "distillation_loss.h"
#include "hard_sample_loss.h"
#include "match_loss.h"
#include "plateau.h"

namespace hast::bindings {

template <>
inline constexpr int kCodes<MatchReduction> = 3;

namespace {

void check_match_loss(const Checks& check, const MatchLossArgs& args) {
  check.size("the number of layers", args.count, 1);
  check.required("loss", args.loss);
  check.required("gradient", args.gradient);
  for (int64_t i = 0; i < args.count; ++i) {
    const MatchedLayer& layer = args.layers[i];
    check.size("channels", layer.channels, 1);
    check.required("means", layer.mean);
    check.required("variances", layer.var);
    check.required("running_means", layer.running_mean);
    check.required("running_vars", layer.running_var);
  }
}

void check_attention(const Checks& check, const ChannelAttentionArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const AttentionMap& map = args.maps[i];
    if (check.tensor(map.batch, map.channels, map.spatial)) check.required("maps", map.map);
    if (map.batch * map.channels > 0) check.required("energies", map.energy);
  }
}

void check_attention_backward(const Checks& check, const ChannelAttentionArgs& args) {
  for (int64_t i = 0; i < args.count; ++i) {
    const AttentionMap& map = args.maps[i];
    if (!check.tensor(map.batch, map.channels, map.spatial)) continue;
    check.required("maps", map.map);
    check.required("coefficients", map.coefficient);
    check.required("gradients", map.gradient);
  }
}

void check_attention_loss(const Checks& check, const AttentionLossArgs& args) {
  check.size("the number of layers", args.count, 1);
  check.size("batch", args.batch, 1);
  check.required("loss", args.loss);
  check.required("scratch", args.scratch);
  check.counters(args);
  for (int64_t i = 0; i < args.count; ++i) {
    const AttentionPair& pair = args.pairs[i];
    check.size("channels", pair.channels, 1);
    check.size("spatial", pair.spatial, 1);
    check.required("teacher", pair.teacher);
    check.required("student", pair.student);
  }
}

// A loss of logits [rows, classes].
template <typename Args>
void check_logits_loss(const Checks& check, const Args& args) {
  check.size("rows", args.rows, 1);
  check.size("classes", args.classes, 1);
  check.tensor(args.rows, args.classes, 1);
  check.required("loss", args.loss);
  check.required("scratch", args.scratch);
  check.counters(args);
}

void check_distillation(const Checks& check, const DistillationLossArgs& args) {
  check_logits_loss(check, args);
  check.required("teacher", args.teacher);
  check.required("student", args.student);
}

void check_hard_sample(const Checks& check, const HardSampleLossArgs& args) {
  check_logits_loss(check, args);
  check.required("logits", args.logits);
  check.required("labels", args.labels);
  check.required("difficulty", args.difficulty);
}

void check_plateau(const Checks& check, const PlateauStepArgs& args) {
  check.required("state", args.state);
  check.required("rate", args.rate);
  check.required("loss", args.loss);
}

void define_match_loss(pybind11::module_& module) {
  using Args = MatchLossArgs;
  define(module, "match_loss", &Backend::match_loss, check_match_loss, &Args::layers,
         Columns(Field{"means", &MatchedLayer::mean}, Field{"variances", &MatchedLayer::var},
                 Field{"running_means", &MatchedLayer::running_mean},
                 Field{"running_vars", &MatchedLayer::running_var},
                 Field{"channels", &MatchedLayer::channels}),
         HAST_FIELD(loss), HAST_FIELD(gradient), HAST_FIELD(dtype), HAST_FIELD(reduction),
         HAST_FIELD(device), HAST_FIELD(stream));
}

void define_channel_attention(pybind11::module_& module) {
  using Args = ChannelAttentionArgs;
  const Field batches{"batches", &AttentionMap::batch};
  const Field channels{"channels", &AttentionMap::channels};
  const Field spatial{"spatial", &AttentionMap::spatial};
  const Field channels_last{"channels_last", &AttentionMap::channels_last};
  const Field maps{"maps", &AttentionMap::map};
  define(module, "channel_attention", &Backend::channel_attention, check_attention, &Args::maps,
         Columns(maps, Field{"energies", &AttentionMap::energy}, batches, channels, spatial,
                 channels_last),
         HAST_FIELD(dtype), HAST_FIELD(device), HAST_FIELD(stream));
  define(module, "channel_attention_backward", &Backend::channel_attention_backward,
         check_attention_backward, &Args::maps,
         Columns(maps, Field{"coefficients", &AttentionMap::coefficient},
                 Field{"gradients", &AttentionMap::gradient}, batches, channels, spatial,
                 channels_last),
         HAST_FIELD(scale), HAST_FIELD(dtype), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_attention_loss(pybind11::module_& module) {
  using Args = AttentionLossArgs;
  define(
      module, "attention_loss", &Backend::attention_loss, check_attention_loss, &Args::pairs,
      Columns(Field{"teacher", &AttentionPair::teacher}, Field{"student", &AttentionPair::student},
              Field{"teacher_gradient", &AttentionPair::teacher_gradient},
              Field{"student_gradient", &AttentionPair::student_gradient},
              Field{"channels", &AttentionPair::channels},
              Field{"spatial", &AttentionPair::spatial}),
      HAST_FIELD(batch), HAST_FIELD(loss), HAST_FIELD(scratch), HAST_FIELD(counters),
      HAST_FIELD(dtype), HAST_FIELD(normalized), HAST_FIELD(device), HAST_FIELD(stream));
}

void define_distillation_loss(pybind11::module_& module) {
  using Args = DistillationLossArgs;
  define(module, "distillation_loss", &Backend::distillation_loss, check_distillation,
         HAST_FIELD(teacher), HAST_FIELD(student), HAST_FIELD(teacher_gradient),
         HAST_FIELD(student_gradient), HAST_FIELD(loss), HAST_FIELD(scratch), HAST_FIELD(counters),
         HAST_FIELD(temperature), HAST_FIELD(dtype), HAST_FIELD(rows), HAST_FIELD(classes),
         HAST_FIELD(device), HAST_FIELD(stream));
}

void define_hard_sample_loss(pybind11::module_& module) {
  using Args = HardSampleLossArgs;
  define(module, "hard_sample_loss", &Backend::hard_sample_loss, check_hard_sample,
         HAST_FIELD(logits), HAST_FIELD(labels), HAST_FIELD(gradient), HAST_FIELD(loss),
         HAST_FIELD(difficulty), HAST_FIELD(scratch), HAST_FIELD(counters), HAST_FIELD(exponent),
         HAST_FIELD(detach), HAST_FIELD(dtype), HAST_FIELD(rows), HAST_FIELD(classes),
         HAST_FIELD(device), HAST_FIELD(stream));
}

void define_plateau_step(pybind11::module_& module) {
  using Args = PlateauStepArgs;
  define(module, "plateau_step", &Backend::plateau_step, check_plateau, HAST_FIELD(state),
         HAST_FIELD(rate), HAST_FIELD(loss), HAST_FIELD(patience), HAST_FIELD(factor),
         HAST_FIELD(threshold), HAST_FIELD(minimum), HAST_FIELD(dtype), HAST_FIELD(device),
         HAST_FIELD(stream));
}

}  // namespace

void define_losses(pybind11::module_& module) {
  define_match_loss(module);
  define_channel_attention(module);
  define_attention_loss(module);
  define_distillation_loss(module);
  define_hard_sample_loss(module);
  define_plateau_step(module);
}

}  // namespace hast::bindings
