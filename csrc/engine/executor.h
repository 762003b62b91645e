// Runs a network on one instruction set: what can be decided before the first image is decided
// here.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/network.h"

namespace hast::engine {

struct Prepared;   // the steps with packed weights, and where values lie
struct Workspace;  // the maps of one image

// May be used by several threads at once. Every output is summed in one order, whatever the
// number of threads.
class Executor {
 public:
  // `isa` is a name of instruction_sets(), or empty for the fastest; std::runtime_error for one
  // that this machine lacks and for a network whose sums 32 bits cannot hold.
  Executor(Network network, const std::string& isa);
  ~Executor();

  // [count, C, H, W] normalised, and [count, H, W, C] pixels. threads 0: all that OpenMP has.
  void run(const float* images, int64_t count, float* logits, int threads) const;
  void run_pixels(const uint8_t* pixels, int64_t count, float* logits, int threads) const;

  // Every value of one image as real numbers [C, H, W], in the order of the network's.
  std::vector<std::vector<float>> trace(const float* image) const;

  // What filling in one image took, and then every step, on one thread.
  std::vector<double> step_seconds(const float* image) const;

  const Network& network() const { return network_; }
  const char* isa() const;
  int64_t weight_bytes() const;
  int64_t workspace_bytes() const;  // for each thread

 private:
  template <typename Images>
  void run_all(const Images& images, int64_t count, float* logits, int threads) const;
  template <typename Reach>
  void watch(const float* image, const Reach& reach) const;
  std::unique_ptr<Workspace> borrow() const;
  void give_back(std::unique_ptr<Workspace> workspace) const;

  Network network_;
  std::unique_ptr<Prepared> prepared_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace hast::engine
