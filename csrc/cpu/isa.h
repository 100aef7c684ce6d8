// The instruction sets that loops are compiled for, and the one they run with.
#pragma once

// What a build has of them. FUSED_ACTS_PORTABLE: the loops for any processor alone, which is what
// sanitizers need to see.
#if !defined(FUSED_ACTS_PORTABLE) && defined(__GNUC__)
#if defined(__x86_64__)
#define FUSED_ACTS_HAS_AVX512
#define FUSED_ACTS_HAS_AVX2
#elif defined(__aarch64__)
#define FUSED_ACTS_HAS_NEON
#endif
#endif

namespace fused_acts::cpu {

enum class Isa { kBaseline, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// The best that this build and this processor have in common; FUSED_ACTS_CPU_CAPABILITY lowers it.
Isa isa();
const char* isa_name();

}  // namespace fused_acts::cpu
