// The instruction sets that loops are compiled for, and the one they run with.
#pragma once

// What a build has of them; isa.cpp chooses among these alone. FUSED_ACTS_PORTABLE: the loops for
// any processor, once, which is what sanitizers need to see.
#if !defined(FUSED_ACTS_PORTABLE) && defined(__x86_64__) && defined(__GNUC__)
#define FUSED_ACTS_HAS_AVX512
#endif

#if defined(FUSED_ACTS_HAS_AVX512) && !defined(__clang__)
// A loop left to the compiler: one copy per instruction set, chosen by the loader.
#define FUSED_ACTS_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
// The same for loops that have no other form for AVX-512.
#define FUSED_ACTS_WIDE_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FUSED_ACTS_CLONES
#define FUSED_ACTS_WIDE_CLONES
#endif

namespace fused_acts::cpu {

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// The best that this build and this processor have in common; FUSED_ACTS_CPU_CAPABILITY lowers it.
Isa isa();
const char* isa_name();

}  // namespace fused_acts::cpu
