// CPU kernel of match_loss.h: a few thousand values, one thread.
#include "match_loss.h"

namespace hast {
inline namespace HAST_BACKEND {
namespace {

// mean_c(running_var), or 1 where that is 0.
template <typename F>
double scale_of(const F* __restrict running_var, int64_t channels) {
  double sum = 0.0;
  for (int64_t c = 0; c < channels; ++c) sum += static_cast<double>(running_var[c]);
  return sum == 0.0 ? 1.0 : sum / static_cast<double>(channels);
}

// The loss of one statistic of one layer, times L; writes its gradient. Squares are divided by
// unit.
template <typename F>
double match(const F* __restrict value, const F* __restrict target, F* __restrict gradient,
             int64_t channels, double layers, bool norm, double unit) {
  double squares = 0.0;
  for (int64_t c = 0; c < channels; ++c) {
    const double difference = static_cast<double>(value[c]) - static_cast<double>(target[c]);
    squares += difference * difference;
  }
  const double length = square_root(squares);
  const double divisor = (norm ? length : 0.5 * static_cast<double>(channels) * unit) * layers;
  const double factor = divisor == 0.0 ? 0.0 : 1.0 / divisor;
  for (int64_t c = 0; c < channels; ++c) {
    const double difference = static_cast<double>(value[c]) - static_cast<double>(target[c]);
    gradient[c] = static_cast<F>(difference * factor);
  }
  return norm ? length : squares / (static_cast<double>(channels) * unit);
}

template <typename F>
void match_layers(const MatchLossArgs& args) {
  int64_t total = 0;
  for (int64_t i = 0; i < args.count; ++i) total += args.layers[i].channels;
  const double layers = static_cast<double>(args.count);
  const bool norm = args.reduction == MatchReduction::kNorms;
  const bool relative = args.reduction == MatchReduction::kRelative;
  F* gradient = static_cast<F*>(args.gradient);
  double loss = 0.0;
  for (int64_t i = 0; i < args.count; ++i) {
    const MatchedLayer& layer = args.layers[i];
    const F* running_var = static_cast<const F*>(layer.running_var);
    const double scale = relative ? scale_of(running_var, layer.channels) : 1.0;
    loss += match(static_cast<const F*>(layer.mean), static_cast<const F*>(layer.running_mean),
                  gradient, layer.channels, layers, norm, scale);
    loss += match(static_cast<const F*>(layer.var), running_var, gradient + total, layer.channels,
                  layers, norm, scale * scale);
    gradient += layer.channels;
  }
  *static_cast<F*>(args.loss) = static_cast<F>(loss / layers);
}

}  // namespace

const char* match_loss(const MatchLossArgs& args) {
  return visit_compute_type(args.dtype, [&](auto statistic) -> const char* {
    match_layers<decltype(statistic)>(args);
    return nullptr;
  });
}

}  // namespace HAST_BACKEND
}  // namespace hast
