// A launch: the order of threads and blocks, and which of the living blocks runs.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include <algorithm>
#include <numeric>

#include "block.h"

namespace emulated {

// Ends a launch in which no block ends: its threads wait for what never comes.
class Watch {
 public:
  Watch() {
    const char* wanted = getenv("HAST_EMULATED_PATIENCE");
    patience = wanted == nullptr ? 60 : atoi(wanted);
    thread = pthread_self();
    ticks = 0;
    struct sigaction action = {};
    action.sa_handler = tick;
    action.sa_flags = SA_NODEFER | SA_RESTART;  // the handler does not return from a stuck kernel
    sigaction(SIGVTALRM, &action, &previous_);
    set_timer(1);
  }
  ~Watch() {
    set_timer(0);
    sigaction(SIGVTALRM, &previous_, nullptr);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  static inline volatile sig_atomic_t ticks = 0, in_kernel = 0;

 private:
  static void set_timer(time_t seconds) {
    const itimerval every = {{seconds, 0}, {seconds, 0}};
    setitimer(ITIMER_VIRTUAL, &every, nullptr);
  }
  static void tick(int) {
    if (!pthread_equal(pthread_self(), thread)) {
      pthread_kill(thread, SIGVTALRM);
    } else if (++ticks >= patience && in_kernel) {
      in_kernel = 0;
      machine.stuck = true;
      to_scheduler();
    }
  }
  static inline pthread_t thread;
  static inline int patience = 0;
  struct sigaction previous_;
};

// Every block once: along x or y first, backward or in steps; the numbers decide.
class Order {
 public:
  Order(const dim3& grid, const char* wanted)
      : grid_(grid), count_(uint64_t{grid.x} * grid.y * grid.z) {
    if (strcmp(wanted, "forward") == 0 || count_ == 1) return;
    step_ = count_ - 1;
    at_ = count_ - 1;
    if (strcmp(wanted, "reverse") == 0) return;
    along_y_ = draw(2) == 0;
    if (draw(2) == 0) {
      do step_ = 1 + draw(count_ - 1);
      while (std::gcd(step_, count_) != 1);
    }
    // Neither the first block first nor the last one last.
    do at_ = draw(count_);
    while (at_ == 0 || (at_ + 1) % count_ == step_);
  }

  uint64_t count() const { return count_; }

  GridIndex next() {
    const uint64_t at = at_, x = grid_.x, y = grid_.y;
    at_ = (at_ + step_) % count_;
    const auto number = [](uint64_t value) { return GridNumber{static_cast<unsigned>(value)}; };
    return along_y_ ? GridIndex{number(at / y % x), number(at % y), number(at / (x * y))}
                    : GridIndex{number(at % x), number(at / x % y), number(at / (x * y))};
  }

 private:
  dim3 grid_;
  uint64_t count_, step_ = 1, at_ = 0;
  bool along_y_ = false;
};

inline void set_thread_order(const char* wanted) {
  std::vector<unsigned>& order = machine.order;
  order.resize(machine.threads);
  std::iota(order.begin(), order.end(), 0u);
  if (strcmp(wanted, "forward") == 0) return;
  std::reverse(order.begin(), order.end());
  if (strcmp(wanted, "reverse") == 0) return;
  for (unsigned i = machine.threads; i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
}

// The fibers of as many blocks as may live at once.
inline void prepare_fibers(const uint3& size, unsigned blocks) {
  static char* stacks =
      static_cast<char*>(mmap(nullptr, kMostBlocks * kMostThreads * kStack, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (unsigned number = 0; number < blocks; ++number) {
    Block& block = machine.blocks[number];
    block.stacks = stacks + number * kMostThreads * kStack;
    if (block.fibers.size() < machine.threads) block.fibers.resize(machine.threads);
    for (unsigned i = 0; i < machine.threads; ++i) {
      Fiber& fiber = block.fibers[i];
      fiber.rank = i;
      fiber.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }
  }
}

// After an error: fibers hang in the middle of kernels.
inline void give_up_fibers() {
  for (Block& block : machine.blocks) {
    if (block.stacks != nullptr) forget_frames(block.stacks, kMostThreads * kStack);
    for (Fiber& fiber : block.fibers) fiber.started = false;
    block.alive = 0;
  }
}

// One of the living or, while there are blocks to begin, a free place; those that are held up only
// when all are.
inline Block& pick(unsigned most, bool more) {
  for (;;) {
    Block* able[kMostBlocks];
    unsigned count = 0;
    for (unsigned i = 0; i < most; ++i) {
      Block& block = machine.blocks[i];
      if (block.alive > 0 ? !block.held_up : more) able[count++] = &block;
    }
    if (count > 0) return *able[draw(count)];
    for (Block& block : machine.blocks) block.held_up = false;
  }
}

inline void run_blocks(Order order, unsigned most) {
  Machine& m = machine;
  for (uint64_t begun = 0, ended = 0; ended < order.count();) {
    Block& block = pick(most, begun < order.count());
    const bool starts = block.alive == 0;
    Watch::in_kernel = 1;
    if (starts) {
      start(block, order.next());
      ++begun;
    } else {
      run_turn(block);
    }
    Watch::in_kernel = 0;
    if (m.stuck) {
      m.stuck = false;
      set_error("a thread that waits for what never comes: another block may not run yet");
    }
    if (!m.error.empty()) return give_up_fibers();
    if (block.alive > 0) continue;
    ++ended;
    Watch::ticks = 0;
  }
}

}  // namespace emulated
