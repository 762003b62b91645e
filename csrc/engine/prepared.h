// Steps whose weights are packed and whose addresses are known.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine/kernels.h"
#include "engine/network.h"

namespace hast::engine {

inline int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Memory for whole cache lines, with room behind for loads that reach over the end.
class Buffer {
 public:
  explicit Buffer(size_t bytes)
      : bytes_(bytes),
        data_(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 191) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, (bytes + 191) / 64 * 64);
  }
  uint8_t* data() const { return data_.get(); }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  int64_t size() const { return static_cast<int64_t>(bytes_); }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  size_t bytes_;
  std::unique_ptr<uint8_t, Free> data_;
};

// Where a value lies in a workspace.
struct Layout {
  int64_t top = 0, left = 0, bottom = 0, right = 0;  // border, zeros of the grid
  int64_t pixel = 0, row = 0;                        // elements
  int64_t offset = 0, first = 0;                     // bytes: of the whole map, of its pixel (0, 0)
  int64_t bytes = 0;

  Plane plane(const Value& value, uint8_t* memory) const;
  // Zeros of the grid beside rows `begin` to `end` of the map, and above the first, below the last.
  void fill_border(const Value& value, uint8_t* memory, int64_t begin, int64_t end) const;
};

// The value that images are written to: 0, or its codes where nothing else reads it.
int entry_of(const Network& network);

// The moments at which a value is needed: 0 fills in the images, i + 1 is step i.
struct Life {
  size_t first = 0, last = 0;
};
std::vector<Life> lives_of(const Network& network, int entry);

// Places maps of which no two that are needed at one moment overlap; the bytes that all take.
int64_t share_memory(const std::vector<Life>& lives, std::vector<Layout>& layouts);

// One step on a share of its output.
struct Work {
  int64_t rows = 1, blocks = 1;
  virtual ~Work() = default;
  virtual void run(uint8_t* memory, const Share& share) const = 0;
  virtual int64_t weight_bytes() const { return 0; }
};

std::vector<Layout> lay_out(const Network& network, int entry, int64_t* bytes);
std::unique_ptr<Work> prepare_convolution(const Network& network, const Step& step,
                                          const std::vector<Layout>& layouts,
                                          const Kernels& kernels);
std::unique_ptr<Work> prepare_other(const Network& network, const Step& step,
                                    const std::vector<Layout>& layouts, const Kernels& kernels);

// What is left of a step when its sums are there. `scale` and `bias` [channels] make real numbers
// of the sums, which are `whole` numbers or not; both come back padded to blocks and in units of
// the output's grid.
class Ending {
 public:
  Ending(const Network& network, const Step& step, const std::vector<Layout>& layouts,
         std::vector<double> scale, std::vector<double> bias, bool whole);
  // From channel `from` of the output on.
  Finish at(uint8_t* memory, int64_t from) const;

 private:
  const Value &out_, *residual_;
  Layout out_layout_, residual_layout_;
  Finish finish_;
  std::vector<float> scale_, bias_;
  std::vector<double> exact_scale_, exact_bias_;
};

struct Prepared {
  const Kernels* kernels = nullptr;
  int entry = 0;
  std::unique_ptr<Ending> entry_ending;  // where it has codes
  std::vector<Layout> layouts;           // of the network's values
  std::vector<std::unique_ptr<Work>> steps;
  int64_t workspace_bytes = 0;
};

}  // namespace hast::engine
