// What cuda_shim.h declares: everything that a kernel or its launch calls.
#include "launch.h"

namespace emulated {

View view{};
static unsigned launches = 0;
unsigned long fences = 0, blocks = 0;

// Where a thread comes upon __shared__ variables: all ones if it is its block's first.
void enter(const Scope& scope) {
  Block& block = *machine.block;
  const unsigned short number = scope;
  for (const unsigned short entered : block.scopes) {
    if (entered == number) return;
  }
  if (number == 0) {  // nobody has told where they lie: they can only be one block's
    const bool alone = view.grid_size.x.value == 1 && view.grid_size.y.value == 1;
    if (!alone) fail("shared memory that was not registered");
    return;
  }
  block.scopes.push_back(number);
  for (const auto& [address, size] : machine.shared[number]) memset(address, 0xFF, size);
}

void barrier(int line) {
  Block& block = *machine.block;
  if (block.plain_calls) return fail("a barrier that the first thread did not reach");
  machine.current->state = State::kAtBarrier;
  machine.current->line = line;
  ++block.at_barrier;
  give_way();
}

// Behind an atomic operation a block may be held up, long enough for others to end.
void end_turn() {
  if (machine.block->plain_calls || draw(2) == 0) return;
  machine.turn_over = machine.block->held_up = true;
  give_way();
}

const uint64_t* exchange(uint32_t mask, uint64_t value) {
  static const uint64_t nothing[kLanes] = {};
  Block& block = *machine.block;
  if (block.plain_calls) {
    fail("a shuffle that the first thread did not reach");
    return nothing;
  }
  Fiber& self = *machine.current;
  Warp& warp = block.warps[self.rank / kLanes];
  const unsigned lane = self.rank % kLanes, slot = self.shuffles++ % 2;
  warp.values[slot][lane] = value;
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

void launch(dim3 grid, dim3 block, void (*call)(const void*), const void* kernel) {
  Machine& m = machine;
  m.threads = block.x * block.y * block.z;
  m.error.clear();
  if (m.threads == 0 || m.threads > kMostThreads || grid.x == 0 || grid.y > 65535 ||
      grid.x > 0x7FFFFFFFu || grid.z > 65535) {
    m.error = "invalid configuration argument";
    return;
  }
  const char* given = getenv("HAST_EMULATED_ORDER");
  const char* wanted = given == nullptr ? "0" : given;
  const auto seed = static_cast<uint32_t>(strtoul(wanted, nullptr, 10));
  m.random = (seed + 1) * 2654435761u ^ ++launches * 40503u;
  m.call = call;
  m.kernel = kernel;
  view.block_size = block;
  view.grid_size = {{grid.x}, {grid.y}, {grid.z}};
  m.block = nullptr;
  set_thread_order(wanted);
  const Order order(grid, wanted);
  blocks += order.count();
  // One block at a time now and then: a block that waits for another must not always meet it.
  const bool alone = strcmp(wanted, "forward") == 0 || strcmp(wanted, "reverse") == 0 || !draw(4);
  const unsigned most = alone || order.count() == 1 ? 1 : kMostBlocks;
  prepare_fibers(block, most);
  const Watch watch;
  run_blocks(order, most);
}

const char* launch_error() { return machine.error.c_str(); }

}  // namespace emulated

// Called from Python: launches are counted from here, so that a test alone sees the same orders.
extern "C" __attribute__((visibility("default"))) void hast_emulated_restart() {
  emulated::launches = 0;
  emulated::fences = emulated::blocks = 0;
}

// Called from Python: what the launches since then did.
extern "C" __attribute__((visibility("default"))) void hast_emulated_counts(unsigned long* fences,
                                                                            unsigned long* blocks) {
  *fences = emulated::fences;
  *blocks = emulated::blocks;
}

// Called from Python: the number of a scope, and once per variable of it.
extern "C" __attribute__((visibility("default"))) void hast_emulated_shared(emulated::Scope* scope,
                                                                            char* address,
                                                                            size_t size) {
  auto& shared = emulated::machine.shared;
  if (shared.empty()) shared.resize(1);  // 0 is none
  if (*scope == 0) {
    *scope = static_cast<unsigned short>(shared.size());
    shared.emplace_back();
  }
  shared[*scope].emplace_back(address, size);
}
