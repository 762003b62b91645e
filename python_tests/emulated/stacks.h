// Which stack is current, for AddressSanitizer; nothing without it (HAST_SANITIZED). Included by
// machine.h only. leaving_to() stands before every switch, jump() makes it, arrived() stands where
// it ends.
#pragma once

#include <setjmp.h>
#include <stddef.h>

namespace emulated {

struct Stack {
  const void* bottom = nullptr;
  size_t size = 0;
};

}  // namespace emulated

#ifdef HAST_SANITIZED

#include <dlfcn.h>
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

// The sanitizer's own takes the frames that it leaves for dead, clears their marks and asks the
// kernel for the signal stack: wrong for fibers that go on, and slow.
inline void jump(jmp_buf& target) {
  using Function = void (*)(jmp_buf, int);
  static const auto plain =
      reinterpret_cast<Function>(dlsym(dlopen("libc.so.6", RTLD_LAZY), "_longjmp"));
  plain(target, 1);
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
inline void jump(jmp_buf& target) { _longjmp(target, 1); }
inline void forget_frames(const void*, size_t) {}

}  // namespace emulated

#endif
