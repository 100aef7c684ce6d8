// The instruction sets that loops are compiled for, and the one they run with.
#pragma once

// What a build has of them beside the baseline. FUSED_ACTS_PORTABLE: nothing, which is what
// sanitizers need to see. FUSED_ACTS_NATIVE: those of one processor, with AVX2 (1), AVX-512 (2),
// AVX-512 with BF16 (3) or none of these (0).
#if !defined(FUSED_ACTS_PORTABLE) && defined(__GNUC__)
#if defined(__aarch64__)
#define FUSED_ACTS_HAS_NEON
#elif defined(__x86_64__)
#if !defined(FUSED_ACTS_NATIVE) || FUSED_ACTS_NATIVE > 0
#define FUSED_ACTS_HAS_AVX2_FLOAT64  // for AVX-512 too
#endif
#ifndef FUSED_ACTS_NATIVE
#define FUSED_ACTS_HAS_AVX2
#define FUSED_ACTS_HAS_AVX512
#define FUSED_ACTS_HAS_AVX512_WITHOUT_BF16
#define FUSED_ACTS_HAS_AVX512_BF16
#elif FUSED_ACTS_NATIVE == 1
#define FUSED_ACTS_HAS_AVX2
#elif FUSED_ACTS_NATIVE == 2
#define FUSED_ACTS_HAS_AVX512
#define FUSED_ACTS_HAS_AVX512_WITHOUT_BF16
#elif FUSED_ACTS_NATIVE == 3
#define FUSED_ACTS_HAS_AVX512
#define FUSED_ACTS_HAS_AVX512_BF16
#endif
#endif
#endif

namespace fused_acts::cpu {

enum class Isa { kBaseline, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// The best that this build and this processor have in common; FUSED_ACTS_CPU_CAPABILITY lowers it.
Isa isa();
const char* isa_name();

}  // namespace fused_acts::cpu
