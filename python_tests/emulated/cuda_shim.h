// CUDA on the CPU, for tests only: the unchanged .cu sources, compiled by an ordinary C++ compiler.
//
// One block runs at a time and every CUDA thread is a fiber; a fiber gives way at barriers and
// shuffles only. What goes wrong becomes the launch's error: a barrier that some threads of the
// block never reach, threads waiting at different barriers, a shuffle that names a lane which has
// exited. HAST_EMULATED_ORDER = forward, reverse or a number (a seed) chooses the order in which
// threads run between barriers: a missing __syncthreads then changes results.
//
// Shared memory is all ones (NaN as a number) when a block starts, if register_shared_memory() in
// shared_memory.py was called. Built with AddressSanitizer, accesses outside of arrays end the
// process.
//
// Not found: races inside a warp's step, memory-model errors, limits of the hardware.
#pragma once

#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "stacks.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other, in one OS thread

struct uint3 {
  unsigned x, y, z;
};
struct dim3 : uint3 {
  dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : uint3{x_size, y_size, z_size} {}
};

namespace emulated {

// The number of a block, or of blocks. Its products are 64 bits wide or they do not compile: a
// tensor of 2^31 elements has few enough blocks, but not few enough threads, for 32 bits.
struct GridNumber {
  unsigned value;
  operator unsigned() const { return value; }
};
template <typename N, std::enable_if_t<sizeof(N) == 8, int> = 0>
N operator*(N factor, GridNumber number) {
  return factor * static_cast<N>(number.value);
}
template <typename N, std::enable_if_t<sizeof(N) == 8, int> = 0>
N operator*(GridNumber number, N factor) {
  return factor * number;
}
template <typename N, std::enable_if_t<sizeof(N) < 8, int> = 0>
N operator*(N, GridNumber) = delete;
template <typename N, std::enable_if_t<sizeof(N) < 8, int> = 0>
N operator*(GridNumber, N) = delete;

struct GridIndex {
  GridNumber x, y, z;
};

constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr size_t kStack = 256 * 1024;

enum class State : uint8_t { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  jmp_buf context;
  uint3 index;
  unsigned rank;
  State state;
  bool started;       // it has a context of its own
  int line;           // of the barrier it waits at
  unsigned shuffles;  // so far; neighbours use two slots in turn
};

struct Warp {
  uint64_t values[2][kLanes];
  uint32_t arrived[2];
  uint32_t alive;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned> order;
  std::function<void()> kernel;
  GridIndex block{}, grid_size{};
  uint3 block_size{};
  Fiber* current = nullptr;
  jmp_buf scheduler;
  Stack scheduler_stack;
  char* stacks = nullptr;
  std::vector<std::pair<void*, size_t>> shared;  // where __shared__ variables lie
  unsigned alive = 0, at_barrier = 0;
  bool waited = false, plain_calls = false;
  std::string error;
};

inline Machine machine;

[[noreturn]] inline void to_scheduler() {
  leaving_to(machine.scheduler_stack);
  _longjmp(machine.scheduler, 1);
}

// Back to the scheduler; returns when it resumes this fiber.
inline void give_way() {
  machine.waited = true;
  if (!_setjmp(machine.current->context)) to_scheduler();
  machine.scheduler_stack = arrived();
}

// Ends the launch. A fiber never returns from here.
inline void fail(const std::string& what) {
  const Machine& m = machine;
  if (machine.error.empty()) {
    machine.error = what + " (block " + std::to_string(m.block.x.value) + "," +
                    std::to_string(m.block.y.value) + ", thread " +
                    std::to_string(m.current->rank) + ")";
  }
  if (!m.plain_calls) to_scheduler();
}

// A fiber is made once per launch and runs the kernel once per block.
inline void fiber_main() {
  for (;;) {
    machine.scheduler_stack = arrived();
    machine.kernel();
    Fiber& self = *machine.current;
    self.state = State::kDone;
    --machine.alive;
    machine.warps[self.rank / kLanes].alive &= ~(1u << self.rank % kLanes);
    if (!_setjmp(self.context)) to_scheduler();
  }
}

inline void resume(Fiber& fiber) {
  machine.current = &fiber;
  char* const stack = machine.stacks + fiber.rank * kStack;
  if (_setjmp(machine.scheduler)) {
    arrived();
    return;
  }
  leaving_to({stack, kStack});
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  setcontext(&context);
}

// All living threads wait: let them go on, if they wait at one and the same barrier.
inline void open_barrier() {
  int line = 0;
  for (Fiber& fiber : machine.fibers) {
    if (fiber.state != State::kAtBarrier) continue;
    machine.current = &fiber;
    if (line != 0 && line != fiber.line) {
      machine.error = "threads of one block wait at different barriers, lines " +
                      std::to_string(line) + " and " + std::to_string(fiber.line);
      return;
    }
    line = fiber.line;
    fiber.state = State::kReady;
  }
  machine.at_barrier = 0;
}

inline void run_block() {
  Machine& m = machine;
  m.alive = static_cast<unsigned>(m.fibers.size());
  m.at_barrier = 0;
  m.waited = m.plain_calls = false;
  for (Warp& warp : m.warps) warp = Warp{};
  for (const auto& [address, size] : m.shared) memset(address, 0xFF, size);
  for (Fiber& fiber : m.fibers) {
    fiber.state = State::kReady;
    fiber.shuffles = 0;
    m.warps[fiber.rank / kLanes].alive |= 1u << fiber.rank % kLanes;
  }
  resume(m.fibers[0]);  // of all threads the one that is never past the end of the data
  if (!m.waited) {      // no barrier, no shuffle: the other threads are plain calls
    m.plain_calls = true;
    for (const unsigned rank : m.order) {
      if (rank == 0 || !m.error.empty()) continue;
      m.current = &m.fibers[rank];
      m.kernel();
    }
    return;
  }
  while (m.alive > 0 && m.error.empty()) {
    bool progress = false;
    for (const unsigned rank : m.order) {
      if (m.fibers[rank].state != State::kReady || !m.error.empty()) continue;
      progress = true;
      resume(m.fibers[rank]);
    }
    if (m.error.empty() && m.alive > 0 && m.at_barrier == m.alive) {
      open_barrier();
      progress = true;
    }
    if (!progress && m.error.empty()) {
      m.error = "deadlock: a barrier or shuffle that some threads of the block never reach";
    }
  }
}

inline void set_order(unsigned threads) {
  std::vector<unsigned>& order = machine.order;
  order.resize(threads);
  for (unsigned i = 0; i < threads; ++i) order[i] = i;
  const char* wanted = getenv("HAST_EMULATED_ORDER");
  if (wanted == nullptr || strcmp(wanted, "forward") == 0) return;
  if (strcmp(wanted, "reverse") == 0) {
    std::reverse(order.begin(), order.end());
  } else {
    std::shuffle(order.begin(), order.end(), std::mt19937(strtoul(wanted, nullptr, 10)));
  }
}

inline void launch(dim3 grid, dim3 block, std::function<void()> kernel) {
  Machine& m = machine;
  const unsigned threads = block.x * block.y * block.z;
  m.error.clear();
  if (threads == 0 || threads > kMostThreads || grid.x == 0 || grid.y > 65535 || grid.z > 65535) {
    m.error = "invalid configuration argument";
    return;
  }
  if (m.stacks == nullptr) {
    m.stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  forget_frames(m.stacks, kMostThreads * kStack);
  m.kernel = std::move(kernel);
  m.block_size = block;
  m.grid_size = {{grid.x}, {grid.y}, {grid.z}};
  m.fibers.assign(threads, Fiber{});
  m.warps.assign((threads + kLanes - 1) / kLanes, Warp{});
  for (unsigned i = 0; i < threads; ++i) {
    m.fibers[i].rank = i;
    m.fibers[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  set_order(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x && m.error.empty(); ++x) {
        m.block = {{x}, {y}, {z}};
        run_block();
      }
    }
  }
}

inline void barrier(int line) {
  if (machine.plain_calls) return fail("a barrier that the first thread did not reach");
  machine.current->state = State::kAtBarrier;
  machine.current->line = line;
  ++machine.at_barrier;
  give_way();
}

// Waits until every lane of the mask has brought its value; where the values then lie.
template <typename T>
const uint64_t* exchange(uint32_t mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
  static const uint64_t nothing[kLanes] = {};
  if (machine.plain_calls) {
    fail("a shuffle that the first thread did not reach");
    return nothing;
  }
  Fiber& self = *machine.current;
  Warp& warp = machine.warps[self.rank / kLanes];
  const unsigned lane = self.rank % kLanes, slot = self.shuffles++ % 2;
  memcpy(&warp.values[slot][lane], &value, sizeof value);
  warp.arrived[slot] |= 1u << lane;
  if (mask & ~warp.alive & ~warp.arrived[slot]) fail("a shuffle names a lane that has exited");
  machine.waited = true;
  if ((warp.arrived[slot] & mask) == mask) {
    warp.arrived[slot] = 0;
    for (unsigned i = 0; i < kLanes; ++i) {
      if (mask >> i & 1 && i != lane) {
        machine.fibers[self.rank - lane + i].state = State::kReady;
      }
    }
  } else {
    self.state = State::kAtShuffle;
    give_way();
  }
  return warp.values[slot];
}

template <typename T>
T value_of(const uint64_t* values, unsigned lane) {
  T value;
  memcpy(&value, &values[lane], sizeof value);
  return value;
}

}  // namespace emulated

// Called from Python, once per variable.
extern "C" __attribute__((visibility("default"), used)) inline void hast_emulated_shared(
    void* address, size_t size) {
  emulated::machine.shared.emplace_back(address, size);
}

#include "cuda_names.h"
