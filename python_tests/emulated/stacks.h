// Which stack is current, for AddressSanitizer; nothing without it (HAST_SANITIZED). Included by
// cuda_shim.h only. leaving_to() stands before every switch, arrived() where the switch ends.
#pragma once

#include <stddef.h>

namespace emulated {

struct Stack {
  const void* bottom = nullptr;
  size_t size = 0;
};

}  // namespace emulated

#ifdef HAST_SANITIZED

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

namespace emulated {

inline void leaving_to(const Stack& stack) {
  __sanitizer_start_switch_fiber(nullptr, stack.bottom, stack.size);
}

// Gives the stack that was left.
inline Stack arrived() {
  Stack left;
  __sanitizer_finish_switch_fiber(nullptr, &left.bottom, &left.size);
  return left;
}

// Frames that were given up at an error have left marks.
inline void forget_frames(const void* stacks, size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(stacks, size);
}

}  // namespace emulated

#else

namespace emulated {

inline void leaving_to(const Stack&) {}
inline Stack arrived() { return {}; }
inline void forget_frames(const void*, size_t) {}

}  // namespace emulated

#endif
