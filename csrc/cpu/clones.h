// One copy of a loop per instruction set, chosen by the loader for the processor it finds.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FUSED_ACTS_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
// For loops that have no other form for AVX-512.
#define FUSED_ACTS_WIDE_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FUSED_ACTS_CLONES
#define FUSED_ACTS_WIDE_CLONES
#endif
