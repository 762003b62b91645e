// A block that runs: its barriers and shuffles, and when its turn ends.
#pragma once

#include "shared_memory.h"

namespace emulated {

// All living threads wait: let them go on, if they wait at one and the same barrier.
inline void open_barrier(Block& block) {
  int line = 0;
  for (unsigned rank = 0; rank < machine.threads; ++rank) {
    Fiber& fiber = block.fibers[rank];
    if (fiber.state != State::kAtBarrier) continue;
    if (line != 0 && line != fiber.line) {
      machine.error = "threads of one block wait at different barriers, lines " +
                      std::to_string(line) + " and " + std::to_string(fiber.line);
      return;
    }
    line = fiber.line;
    fiber.state = State::kReady;
  }
  block.at_barrier = 0;
}

// What is left of a block whose first thread had no barrier and no shuffle: plain calls.
inline void call_plainly(Block& block) {
  block.plain_calls = true;
  if (_setjmp(machine.scheduler)) return;  // it was stuck
  for (const unsigned rank : machine.order) {
    if (rank == 0 || !machine.error.empty()) continue;
    machine.current = &block.fibers[rank];
    machine.kernel();
  }
  block.alive = 0;
}

inline void start(Block& block, const GridIndex& index) {
  switch_to(block);
  block.index = index;
  block.alive = machine.threads;
  block.at_barrier = 0;
  block.plain_calls = block.held_up = machine.waited = false;
  block.scopes.clear();
  block.warps.assign((machine.threads + kLanes - 1) / kLanes, Warp{});
  for (unsigned rank = 0; rank < machine.threads; ++rank) {
    block.fibers[rank].state = State::kReady;
    block.fibers[rank].shuffles = 0;
    block.warps[rank / kLanes].alive |= 1u << rank % kLanes;
  }
  resume(block.fibers[0]);  // of all threads the one that is never past the end of the data
  if (!machine.waited && !machine.stuck && machine.error.empty()) call_plainly(block);
}

// Runs a block until it ends or its turn does.
inline void run_turn(Block& block) {
  switch_to(block);
  machine.turn_over = false;
  while (block.alive > 0) {
    bool progress = false;
    for (const unsigned rank : machine.order) {
      if (block.fibers[rank].state != State::kReady) continue;
      progress = true;
      resume(block.fibers[rank]);
      if (machine.turn_over || machine.stuck || !machine.error.empty()) return;
    }
    if (block.alive > 0 && block.at_barrier == block.alive) {
      open_barrier(block);
      if (draw(4) == 0 || !machine.error.empty()) return;
    } else if (!progress) {
      machine.error = "deadlock: a barrier or shuffle that some threads of the block never reach";
      return;
    }
  }
}

inline void barrier(int line) {
  Block& block = *machine.block;
  if (block.plain_calls) return fail("a barrier that the first thread did not reach");
  machine.current->state = State::kAtBarrier;
  machine.current->line = line;
  ++block.at_barrier;
  give_way();
}

// Behind an atomic operation a block may be held up, long enough for others to end.
inline void end_turn() {
  if (machine.block->plain_calls || draw(2) == 0) return;
  machine.turn_over = machine.block->held_up = true;
  give_way();
}

// Waits until every lane of the mask has brought its value; where the values then lie.
template <typename T>
const uint64_t* exchange(uint32_t mask, T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
  static const uint64_t nothing[kLanes] = {};
  Block& block = *machine.block;
  if (block.plain_calls) {
    fail("a shuffle that the first thread did not reach");
    return nothing;
  }
  Fiber& self = *machine.current;
  Warp& warp = block.warps[self.rank / kLanes];
  const unsigned lane = self.rank % kLanes, slot = self.shuffles++ % 2;
  memcpy(&warp.values[slot][lane], &value, sizeof value);
  warp.arrived[slot] |= 1u << lane;
  if (mask & ~warp.alive & ~warp.arrived[slot]) fail("a shuffle names a lane that has exited");
  machine.waited = true;
  if ((warp.arrived[slot] & mask) == mask) {
    warp.arrived[slot] = 0;
    for (unsigned i = 0; i < kLanes; ++i) {
      if (mask >> i & 1 && i != lane) block.fibers[self.rank - lane + i].state = State::kReady;
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
