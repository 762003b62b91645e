// Which instruction sets this machine has.
#include <vector>

#include "engine/kernels.h"

#ifdef HAST_ENGINE_X86
#include <cpuid.h>
#endif
#ifdef HAST_ENGINE_NEON
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace hast::engine {

namespace portable {
const Kernels& kernels();
}
#ifdef HAST_ENGINE_X86
namespace avx2 {
const Kernels& kernels();
}
namespace avx_vnni {
const Kernels& kernels();
}
namespace avx512_vnni {
const Kernels& kernels();
}
#endif
#ifdef HAST_ENGINE_NEON
namespace neon_dot {
const Kernels& kernels();
}
#endif

namespace {

#ifdef HAST_ENGINE_X86
// Not among the names of __builtin_cpu_supports of every compiler; the system keeps registers of
// 256 bits where it says that it supports AVX2.
bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
#endif
#ifdef HAST_ENGINE_NEON
bool has_neon_dot() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif

}  // namespace

const Kernels* const* instruction_sets(int* count) {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> sets;
#ifdef HAST_ENGINE_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
      sets.push_back(&avx512_vnni::kernels());
    if (avx2 && has_avx_vnni()) sets.push_back(&avx_vnni::kernels());
    if (avx2) sets.push_back(&avx2::kernels());
#endif
#ifdef HAST_ENGINE_NEON
    if (has_neon_dot()) sets.push_back(&neon_dot::kernels());
#endif
    sets.push_back(&portable::kernels());
    return sets;
  }();
  *count = static_cast<int>(found.size());
  return found.data();
}

}  // namespace hast::engine
