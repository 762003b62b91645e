// CUDA on the CPU, for tests only: the unchanged .cu sources, compiled by an ordinary C++ compiler.
//
// Every CUDA thread is a fiber. A few blocks are alive at once; fibers give way at barriers and
// shuffles, blocks at barriers and atomics. What goes wrong becomes the launch's error: a barrier
// that some threads of the block never reach, threads waiting at different barriers, a shuffle that
// names a lane which has exited, a thread that waits for another block (HAST_EMULATED_PATIENCE,
// seconds of CPU time without a block that ends).
//
// HAST_EMULATED_ORDER = a number (a seed, 0 if it is not set): threads and blocks run in another
// order in every launch, never with block 0 first or the last one last. A missing __syncthreads or
// a block that takes its index for its turn then changes results. forward, reverse: block after
// block, in that order, and so do threads.
//
// Shared memory is all ones (NaN as a number) when a block starts, and its own as long as it lives,
// if shared_memory.py has told where it lies. Built with AddressSanitizer, accesses outside of
// arrays end the process.
//
// Not found: races inside a warp's step, missing fences, limits of the hardware.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>

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

// What a .cu sees of the emulator, which is a unit of its own: its headers are read once, not once
// per .cu.
constexpr unsigned kLanes = 32;
using Scope = volatile unsigned short;  // of __shared__ variables: a function; its number
struct Thread {
  uint3 index;
  unsigned rank;
};
struct View {
  const Thread* thread;
  const GridIndex* block;
  uint3 block_size;
  GridIndex grid_size;
};
extern View view;

void enter(const Scope& scope);
void barrier(int line);
void end_turn();
const uint64_t* exchange(uint32_t mask, uint64_t value);
void launch(dim3 grid, dim3 block, void (*call)(const void*), const void* kernel);
const char* launch_error();           // empty: none
extern unsigned long fences, blocks;  // since the last restart

}  // namespace emulated

#include "cuda_names.h"
