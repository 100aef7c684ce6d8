// To be included before the headers whose functions a file compiles for AVX2. Such a file ends with
// FUSED_ACTS_END_TARGET.
#pragma once

// What is not ours stays as it is compiled elsewhere.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define FUSED_ACTS_AVX2_TARGET "avx2,fma,f16c"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target(FUSED_ACTS_AVX2_TARGET))), apply_to = function)
#define FUSED_ACTS_SIMD __attribute__((always_inline, nothrow, target(FUSED_ACTS_AVX2_TARGET)))
#define FUSED_ACTS_END_TARGET _Pragma("clang attribute pop")
#else
#pragma GCC target("avx2,fma,f16c")  // a literal, for GCC
#define FUSED_ACTS_SIMD __attribute__((always_inline, nothrow))
#define FUSED_ACTS_END_TARGET
#endif
