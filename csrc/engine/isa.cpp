// Which instruction sets this machine has.
#include <vector>

#include "engine/kernels.h"

#ifdef HAST_ENGINE_AVX_VNNI
#include <cpuid.h>
#endif
#ifdef HAST_ENGINE_NEON_DOT
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace hast::engine {

namespace portable {
const Kernels& kernels();
}
#ifdef HAST_ENGINE_AVX2
namespace avx2 {
const Kernels& kernels();
}
#endif
#ifdef HAST_ENGINE_AVX_VNNI
namespace avx_vnni {
const Kernels& kernels();
}
#endif
#ifdef HAST_ENGINE_AVX512_VNNI
namespace avx512_vnni {
const Kernels& kernels();
}
#endif
#ifdef HAST_ENGINE_NEON_DOT
namespace neon_dot {
const Kernels& kernels();
}
#endif

namespace {

#ifdef HAST_ENGINE_AVX_VNNI
// Not among the names of __builtin_cpu_supports of every compiler; the system keeps registers of
// 256 bits where it says that it supports AVX2.
bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
#endif
#ifdef HAST_ENGINE_NEON_DOT
bool has_neon_dot() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#endif

}  // namespace

const Kernels* const* instruction_sets(int* count) {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> sets;
#if defined(HAST_ENGINE_AVX2) || defined(HAST_ENGINE_AVX_VNNI) || defined(HAST_ENGINE_AVX512_VNNI)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef HAST_ENGINE_AVX512_VNNI
    if (avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
      sets.push_back(&avx512_vnni::kernels());
#endif
#ifdef HAST_ENGINE_AVX_VNNI
    if (avx2 && has_avx_vnni()) sets.push_back(&avx_vnni::kernels());
#endif
#ifdef HAST_ENGINE_AVX2
    if (avx2) sets.push_back(&avx2::kernels());
#endif
#ifdef HAST_ENGINE_NEON_DOT
    if (has_neon_dot()) sets.push_back(&neon_dot::kernels());
#endif
    sets.push_back(&portable::kernels());
    return sets;
  }();
  *count = static_cast<int>(found.size());
  return found.data();
}

}  // namespace hast::engine
