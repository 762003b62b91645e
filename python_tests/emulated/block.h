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
    view.thread = machine.current = &block.fibers[rank];
    machine.call(machine.kernel);
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

}  // namespace emulated
