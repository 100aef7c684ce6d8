#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "dense.h"

namespace fused_acts::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};

Capability detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const auto avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512)
    return __builtin_cpu_supports("avx512bf16") ? Capability::kAvx512Bf16 : Capability::kAvx512;
  if (avx2) return Capability::kAvx2;
#endif
  return Capability::kBaseline;
}

}  // namespace

// FUSED_ACTS_CPU_CAPABILITY lowers it, to run the loops that are there for other processors. The
// copy of a portable loop (clones.h) stays the loader's choice.
Capability processor_capability() {
  static const Capability capability = [] {
    const Capability found = detect();
    const char* wanted = std::getenv("FUSED_ACTS_CPU_CAPABILITY");
    for (int i = 0; wanted && i < static_cast<int>(found); ++i)
      if (std::strcmp(wanted, kNames[i]) == 0) return static_cast<Capability>(i);
    return found;
  }();
  return capability;
}

const char* capability() { return kNames[static_cast<int>(processor_capability())]; }

}  // namespace fused_acts::cpu
