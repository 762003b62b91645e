// Shared memory: static variables, whose values change with the block that runs.
#pragma once

#include "machine.h"

namespace emulated {

template <typename Action>
void each_shared_variable(const Block& block, const Action& action) {
  for (const unsigned short scope : block.scopes) {
    for (const auto& [address, size] : machine.shared[scope]) action(address, size);
  }
}

// Makes a block the one that runs.
inline void switch_to(Block& block) {
  if (machine.block == &block) return;
  if (machine.block != nullptr && machine.block->alive > 0) {
    std::vector<char>& saved = machine.block->saved;
    saved.clear();
    each_shared_variable(*machine.block, [&](const char* address, size_t size) {
      saved.insert(saved.end(), address, address + size);
    });
  }
  const char* from = block.saved.data();
  if (block.alive > 0) {
    each_shared_variable(block, [&](char* address, size_t size) {
      memcpy(address, from, size);
      from += size;
    });
  }
  machine.block = &block;
  view.block = &block.index;
}

}  // namespace emulated
