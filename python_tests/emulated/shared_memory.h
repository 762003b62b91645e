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

// Where a thread comes upon __shared__ variables: all ones if it is its block's first.
inline void enter(const Scope& scope) {
  Block& block = *machine.block;
  const unsigned short number = scope;
  for (const unsigned short entered : block.scopes) {
    if (entered == number) return;
  }
  if (number == 0) {  // nobody has told where they lie: they can only be one block's
    const bool alone = machine.grid_size.x.value == 1 && machine.grid_size.y.value == 1;
    if (!alone) fail("shared memory that was not registered");
    return;
  }
  block.scopes.push_back(number);
  for (const auto& [address, size] : machine.shared[number]) memset(address, 0xFF, size);
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
}

}  // namespace emulated

// Called from Python: the number of a scope, and once per variable of it.
extern "C" __attribute__((visibility("default"), used)) inline void hast_emulated_shared(
    emulated::Scope* scope, char* address, size_t size) {
  auto& shared = emulated::machine.shared;
  if (shared.empty()) shared.resize(1);  // 0 is none
  if (*scope == 0) {
    *scope = static_cast<unsigned short>(shared.size());
    shared.emplace_back();
  }
  shared[*scope].emplace_back(address, size);
}
