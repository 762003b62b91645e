// Which maps may share memory, and where each lies: the largest first, in the smallest gap that
// fits.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "engine/prepared.h"

namespace hast::engine {

std::vector<Life> lives_of(const Network& network, int entry) {
  std::vector<Life> lives(network.values.size());
  for (size_t i = 0; i < network.steps.size(); ++i) {
    const Step& step = network.steps[i];
    const size_t moment = i + 1;
    lives[static_cast<size_t>(step.output)] = {step.output == entry ? 0 : moment, moment};
    auto read = [&](int value) { lives[static_cast<size_t>(value)].last = moment; };
    for (const int input : step.inputs) read(input);
    if (step.residual >= 0) read(step.residual);
  }
  // One thread reads the logits while others fill in the next image.
  lives[static_cast<size_t>(network.output)] = {0, network.steps.size()};
  return lives;
}

int64_t share_memory(const std::vector<Life>& lives, std::vector<Layout>& layouts) {
  const auto room = [&](size_t i) { return (layouts[i].bytes + 63) / 64 * 64; };
  std::vector<size_t> order(layouts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return room(a) > room(b); });
  std::vector<size_t> placed;  // by where they begin
  int64_t end = 0;
  for (const size_t i : order) {
    int64_t gap_begin = 0, best = -1, best_size = std::numeric_limits<int64_t>::max();
    for (const size_t other : placed) {
      if (lives[other].last < lives[i].first || lives[i].last < lives[other].first) continue;
      const int64_t gap = layouts[other].offset - gap_begin;
      if (gap >= room(i) && gap < best_size) {
        best = gap_begin;
        best_size = gap;
      }
      gap_begin = std::max(gap_begin, layouts[other].offset + room(other));
    }
    Layout& own = layouts[i];
    own.offset = best < 0 ? gap_begin : best;
    own.first += own.offset;
    end = std::max(end, own.offset + room(i));
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i,
                         [&](size_t a, size_t b) { return layouts[a].offset < layouts[b].offset; }),
        i);
  }
  return end;
}

}  // namespace hast::engine
