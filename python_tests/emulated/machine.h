// What is emulated: threads as fibers, warps, blocks; and how a fiber runs and gives way.
#pragma once

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <string>
#include <utility>
#include <vector>

#include "cuda_shim.h"
#include "stacks.h"

namespace emulated {

constexpr unsigned kMostThreads = 1024, kMostBlocks = 3;
constexpr size_t kStack = 256 * 1024;

enum class State : uint8_t { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber : Thread {
  jmp_buf context;
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

struct Block {
  std::vector<Fiber> fibers;  // as many as any launch had
  std::vector<Warp> warps;
  GridIndex index{};
  char* stacks = nullptr;
  unsigned alive = 0, at_barrier = 0;
  bool plain_calls = false, held_up = false;
  std::vector<unsigned short> scopes;  // that it has entered
  std::vector<char> saved;             // its shared memory, while another block runs
};

struct Machine {
  Block blocks[kMostBlocks];
  Block* block = nullptr;  // the one that runs; its shared memory is in place
  Fiber* current = nullptr;
  unsigned threads = 0;
  std::vector<unsigned> order;
  void (*call)(const void*) = nullptr;
  const void* kernel = nullptr;
  jmp_buf scheduler;
  Stack scheduler_stack;
  std::vector<std::vector<std::pair<char*, size_t>>> shared;  // the variables of every scope
  uint32_t random = 0;
  bool waited = false, turn_over = false;
  bool stuck = false;  // left by a signal
  std::string error;
};

inline Machine machine;

// A number below `limit`, the same everywhere: a counter, well mixed.
inline uint32_t draw(uint64_t limit) {
  uint32_t bits = machine.random += 0x9E3779B9u;
  bits = (bits ^ bits >> 16) * 0x21F0AAADu;
  bits = (bits ^ bits >> 15) * 0x735A2D97u;
  return static_cast<uint32_t>((bits ^ bits >> 15) * limit >> 32);
}

// Does not return, but the compiler must not know: it would tell AddressSanitizer.
inline void to_scheduler() {
  if (machine.block->plain_calls) _longjmp(machine.scheduler, 1);  // on its own stack
  leaving_to(machine.scheduler_stack);
  jump(machine.scheduler);
}

// Back to the scheduler; returns when it resumes this fiber.
inline void give_way() {
  machine.waited = true;
  if (!_setjmp(machine.current->context)) to_scheduler();
  machine.scheduler_stack = arrived();
}

inline void set_error(const std::string& what) {
  if (!machine.error.empty()) return;
  const GridIndex& block = machine.block->index;
  machine.error = what + " (block " + std::to_string(block.x.value) + "," +
                  std::to_string(block.y.value) + ", thread " +
                  std::to_string(machine.current->rank) + ")";
}

// Ends the launch. A fiber never returns from here.
inline void fail(const std::string& what) {
  set_error(what);
  if (!machine.block->plain_calls) to_scheduler();
}

// A fiber runs the kernel once per block of every launch.
inline void fiber_main() {
  for (;;) {
    machine.scheduler_stack = arrived();
    machine.call(machine.kernel);
    Fiber& self = *machine.current;
    self.state = State::kDone;
    --machine.block->alive;
    machine.block->warps[self.rank / kLanes].alive &= ~(1u << self.rank % kLanes);
    if (!_setjmp(self.context)) to_scheduler();
  }
}

inline void resume(Fiber& fiber) {
  view.thread = machine.current = &fiber;
  char* const stack = machine.block->stacks + fiber.rank * kStack;
  if (_setjmp(machine.scheduler)) {
    arrived();
    return;
  }
  leaving_to({stack, kStack});
  if (fiber.started) jump(fiber.context);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  setcontext(&context);
}

}  // namespace emulated
