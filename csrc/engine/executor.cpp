// Images through the steps: every thread with an image of its own, or all on the rows of one.
#include "engine/executor.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "engine/images.h"
#include "engine/prepared.h"

namespace hast::engine {
namespace {

const Kernels* chosen(const std::string& isa) {
  int count = 0;
  const Kernels* const* sets = instruction_sets(&count);
  if (isa.empty()) return sets[0];
  std::string names;
  for (int i = 0; i < count; ++i) {
    if (isa == sets[i]->name) return sets[i];
    names += std::string(i ? ", " : "") + sets[i]->name;
  }
  throw std::runtime_error("this machine does not run '" + isa + "'; it runs " + names);
}

// Of `count`, the part of thread `rank` of `ranks`.
int64_t begin_of(int64_t count, int rank, int ranks) {
  return count / ranks * rank + std::min<int64_t>(rank, count % ranks);
}

// By rows, or by pairs of blocks (as kernels take them) where the largest part is smaller then: all
// wait for it.
Share share_of(int64_t rows, int64_t blocks, int rank, int ranks) {
  const int64_t pairs = parts(blocks, 2);
  if (parts(rows, ranks) * pairs <= parts(pairs, ranks) * rows)
    return {begin_of(rows, rank, ranks), begin_of(rows, rank + 1, ranks), 0, blocks};
  return {0, rows, std::min(blocks, 2 * begin_of(pairs, rank, ranks)),
          std::min(blocks, 2 * begin_of(pairs, rank + 1, ranks))};
}

}  // namespace

struct Workspace {
  explicit Workspace(int64_t bytes) : memory(static_cast<size_t>(bytes)) {}
  Buffer memory;
};

namespace {

// What one thread does for an image. `reach` comes before every step, with its number, and at the
// end; it lets the others of `ranks` catch up.
template <typename Images, typename Reach>
void one_image(const Network& network, const Prepared& prepared, const Images& images,
               int64_t image, uint8_t* memory, float* logits, int rank, int ranks,
               const Reach& reach) {
  images.rows(image, memory, begin_of(network.height, rank, ranks),
              begin_of(network.height, rank + 1, ranks));
  // A map lies where others were.
  const auto fill_border = [&](int index) {
    const Value& value = network.values[static_cast<size_t>(index)];
    prepared.layouts[static_cast<size_t>(index)].fill_border(
        value, memory, begin_of(value.height, rank, ranks),
        begin_of(value.height, rank + 1, ranks));
  };
  fill_border(prepared.entry);
  for (size_t i = 0; i < prepared.steps.size(); ++i) {
    reach(i);
    if (network.steps[i].output == prepared.entry) continue;  // images are its codes
    fill_border(network.steps[i].output);
    const Work& step = *prepared.steps[i];
    const Share share = share_of(step.rows, step.blocks, rank, ranks);
    if (share.row_begin < share.row_end && share.block_begin < share.block_end)
      step.run(memory, share);
  }
  reach(prepared.steps.size());
  if (rank != 0) return;
  const size_t out = static_cast<size_t>(network.output);
  const Value& value = network.values[out];
  const Plane plane = prepared.layouts[out].plane(value, memory);
  std::copy(plane.floats, plane.floats + value.channels, logits + image * value.channels);
}

}  // namespace

Executor::Executor(Network network, const std::string& isa)
    : network_(std::move(network)), prepared_(std::make_unique<Prepared>()) {
  Prepared& p = *prepared_;
  p.kernels = chosen(isa);
  p.entry = entry_of(network_);
  p.layouts = lay_out(network_, p.entry, &p.workspace_bytes);
  for (const Step& step : network_.steps) {
    if (p.entry != 0 && step.output == p.entry)
      p.entry_ending = std::make_unique<Ending>(network_, step, p.layouts, std::vector<double>{1.0},
                                                std::vector<double>{0.0}, false);
    const auto prepare = step.op == Op::kConvolution ? prepare_convolution : prepare_other;
    p.steps.push_back(prepare(network_, step, p.layouts, *p.kernels));
  }
}

Executor::~Executor() = default;

const char* Executor::isa() const { return prepared_->kernels->name; }

int64_t Executor::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& step : prepared_->steps) bytes += step->weight_bytes();
  return bytes;
}

int64_t Executor::workspace_bytes() const { return prepared_->workspace_bytes; }

std::unique_ptr<Workspace> Executor::borrow() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Workspace> found = std::move(idle_.back());
      idle_.pop_back();
      return found;
    }
  }
  return std::make_unique<Workspace>(prepared_->workspace_bytes);
}

void Executor::give_back(std::unique_ptr<Workspace> workspace) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(workspace));
}

template <typename Images>
void Executor::run_all(const Images& images, int64_t count, float* logits, int threads) const {
#ifdef _OPENMP
  if (threads <= 0) threads = omp_get_max_threads();
#else
  threads = 1;
#endif
  std::vector<std::unique_ptr<Workspace>> spaces;
  auto alone = [&](int64_t image, Workspace& space) {
    one_image(network_, *prepared_, images, image, space.memory.data(), logits, 0, 1,
              [](size_t) {});
  };
  if (threads == 1 || count == 0) {
    spaces.push_back(borrow());
    for (int64_t i = 0; i < count; ++i) alone(i, *spaces[0]);
  }
#ifdef _OPENMP
  else {
    const int64_t together = count % threads, apart = count - together;
    const int64_t needed = apart ? threads : 1;
    for (int64_t i = 0; i < needed; ++i) spaces.push_back(borrow());
    // Whoever is free takes the next image: a processor that other programs use too delays nobody.
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
    {
      // OpenMP may give fewer threads than were asked for.
      const int rank = omp_get_thread_num(), ranks = omp_get_num_threads();
      for (int64_t i = next++; i < apart; i = next++) alone(i, *spaces[static_cast<size_t>(rank)]);
      if (together) {
        const auto wait = [](size_t) {
#pragma omp barrier
        };
        wait(0);
        for (int64_t i = apart; i < count; ++i)
          one_image(network_, *prepared_, images, i, spaces[0]->memory.data(), logits, rank, ranks,
                    wait);
      }
    }
  }
#endif
  for (auto& space : spaces) give_back(std::move(space));
}

void Executor::run(const float* images, int64_t count, float* logits, int threads) const {
  run_all(FloatImages(network_, *prepared_, images), count, logits, threads);
}

void Executor::run_pixels(const uint8_t* pixels, int64_t count, float* logits, int threads) const {
  run_all(PixelImages(network_, *prepared_, pixels), count, logits, threads);
}

template <typename Reach>
void Executor::watch(const float* image, const Reach& reach) const {
  std::unique_ptr<Workspace> space = borrow();
  std::vector<float> logits(
      static_cast<size_t>(network_.values[static_cast<size_t>(network_.output)].channels));
  one_image(network_, *prepared_, FloatImages(network_, *prepared_, image), 0, space->memory.data(),
            logits.data(), 0, 1, [&](size_t moment) { reach(moment, space->memory.data()); });
  give_back(std::move(space));
}

std::vector<std::vector<float>> Executor::trace(const float* image) const {
  std::vector<std::vector<float>> found(network_.values.size());
  found[0].assign(image, image + network_.channels * network_.height * network_.width);
  watch(image, [&](size_t moment, uint8_t* memory) {  // before another value lies there
    if (moment == 0) return;
    const size_t i = static_cast<size_t>(network_.steps[moment - 1].output);
    const Value& value = network_.values[i];
    const Plane plane = prepared_->layouts[i].plane(value, memory);
    for (int64_t c = 0; c < value.channels; ++c)
      for (int64_t y = 0; y < value.height; ++y)
        for (int64_t x = 0; x < value.width; ++x) {
          const int64_t at = y * plane.row + x * plane.pixel + c;
          found[i].push_back(plane.codes
                                 ? static_cast<float>(value.grid.step) *
                                       static_cast<float>(plane.codes[at] - value.grid.zero_point)
                                 : plane.floats[at]);
        }
  });
  return found;
}

std::vector<double> Executor::step_seconds(const float* image) const {
  using Clock = std::chrono::steady_clock;
  std::vector<double> found;
  Clock::time_point last = Clock::now();
  watch(image, [&](size_t, uint8_t*) {
    const Clock::time_point now = Clock::now();
    found.push_back(std::chrono::duration<double>(now - last).count());
    last = now;
  });
  return found;
}

}  // namespace hast::engine
