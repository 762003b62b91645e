#include <limits>
#include <string>
#include <string_view>

#include "engine/fields.h"
#include "engine/read_window.h"

namespace hast::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr Named kActivations[] = {{"clip", static_cast<int>(Activation::kClip)},
                                  {"leaky_relu", static_cast<int>(Activation::kLeakyRelu)},
                                  {"hard_swish", static_cast<int>(Activation::kHardSwish)},
                                  {"hard_sigmoid", static_cast<int>(Activation::kHardSigmoid)},
                                  {"sigmoid", static_cast<int>(Activation::kSigmoid)},
                                  {"silu", static_cast<int>(Activation::kSilu)},
                                  {"tanh", static_cast<int>(Activation::kTanh)}};

float parameter(Fields& fields, std::string_view key, bool has, bool nullable, float null) {
  if (!has) {
    const Json* found = fields.find(key);
    if (found && !found->is_null()) fields.fail("this kind has no " + quoted(key));
    return 0;
  }
  const Json& found = fields.any(key);
  if (nullable && found.is_null()) return null;
  return static_cast<float>(real_of(found, fields.where() + ": " + quoted(key)));
}

}  // namespace

void read_activation(Fields& step_fields, Step& step) {
  const Json& json = step_fields.any("activation");
  if (json.is_null()) return;
  Fields fields(json, step_fields.where() + ": activation");
  step.activation = static_cast<Activation>(fields.choice("kind", kActivations));
  const bool clip = step.activation == Activation::kClip;
  const bool has_b = clip || step.activation == Activation::kHardSigmoid;
  const bool has_a = has_b || step.activation == Activation::kLeakyRelu;
  step.a = parameter(fields, "a", has_a, clip, -kInfinity);
  step.b = parameter(fields, "b", has_b, clip, kInfinity);
  if (clip && step.a > step.b) fields.fail("'a' is larger than 'b'");
  fields.finish();
}

}  // namespace hast::engine
