// A pair of floats that moves through the arithmetic as one: sm_100 and later have instructions
// that work on both halves at once, and nvcc does not form them by itself. Elsewhere the same
// operations go lane by lane. The overloads are those that primitives.h has for float.
#pragma once

#include "math/elementary.h"

// What sm_100 and all later architectures have: packed arithmetic, and accesses of 32 bytes.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define FUSED_ACTS_HAS_F32X2
#define FUSED_ACTS_HAS_32_BYTE_ACCESSES
#endif

namespace fused_acts {

struct F32x2 {
  float lo, hi;

  F32x2() = default;
  FUSED_ACTS_INLINE explicit F32x2(float both) : lo(both), hi(both) {}
  FUSED_ACTS_INLINE F32x2(float lo, float hi) : lo(lo), hi(hi) {}
};

// The truth of a comparison in each lane.
struct Bool2 {
  bool lo, hi;
};

FUSED_ACTS_INLINE F32x2 operator-(F32x2 x) { return {-x.lo, -x.hi}; }

FUSED_ACTS_INLINE F32x2 operator+(F32x2 a, F32x2 b) {
#ifdef FUSED_ACTS_HAS_F32X2
  F32x2 sum;
  asm("{ .reg .b64 a, b; mov.b64 a, {%2, %3}; mov.b64 b, {%4, %5};\n\t"
      "add.rn.f32x2 a, a, b; mov.b64 {%0, %1}, a; }"
      : "=f"(sum.lo), "=f"(sum.hi)
      : "f"(a.lo), "f"(a.hi), "f"(b.lo), "f"(b.hi));
  return sum;
#else
  return {a.lo + b.lo, a.hi + b.hi};
#endif
}

FUSED_ACTS_INLINE F32x2 operator-(F32x2 a, F32x2 b) { return a + -b; }

FUSED_ACTS_INLINE F32x2 operator*(F32x2 a, F32x2 b) {
#ifdef FUSED_ACTS_HAS_F32X2
  F32x2 product;
  asm("{ .reg .b64 a, b; mov.b64 a, {%2, %3}; mov.b64 b, {%4, %5};\n\t"
      "mul.rn.f32x2 a, a, b; mov.b64 {%0, %1}, a; }"
      : "=f"(product.lo), "=f"(product.hi)
      : "f"(a.lo), "f"(a.hi), "f"(b.lo), "f"(b.hi));
  return product;
#else
  return {a.lo * b.lo, a.hi * b.hi};
#endif
}

FUSED_ACTS_INLINE F32x2 fma(F32x2 a, F32x2 b, F32x2 c) {
#ifdef FUSED_ACTS_HAS_F32X2
  F32x2 result;
  asm("{ .reg .b64 a, b, c; mov.b64 a, {%2, %3}; mov.b64 b, {%4, %5}; mov.b64 c, {%6, %7};\n\t"
      "fma.rn.f32x2 a, a, b, c; mov.b64 {%0, %1}, a; }"
      : "=f"(result.lo), "=f"(result.hi)
      : "f"(a.lo), "f"(a.hi), "f"(b.lo), "f"(b.hi), "f"(c.lo), "f"(c.hi));
  return result;
#else
  return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)};
#endif
}

FUSED_ACTS_INLINE Bool2 operator>(F32x2 a, F32x2 b) { return {a.lo > b.lo, a.hi > b.hi}; }
FUSED_ACTS_INLINE Bool2 operator<(F32x2 a, F32x2 b) { return {a.lo < b.lo, a.hi < b.hi}; }
FUSED_ACTS_INLINE Bool2 operator>=(F32x2 a, F32x2 b) { return {a.lo >= b.lo, a.hi >= b.hi}; }

FUSED_ACTS_INLINE F32x2 select(Bool2 condition, F32x2 a, F32x2 b) {
  return {condition.lo ? a.lo : b.lo, condition.hi ? a.hi : b.hi};
}
FUSED_ACTS_INLINE F32x2 abs(F32x2 x) { return {abs(x.lo), abs(x.hi)}; }
FUSED_ACTS_INLINE F32x2 clamp_finite(F32x2 x) { return {clamp_finite(x.lo), clamp_finite(x.hi)}; }
FUSED_ACTS_INLINE F32x2 copy_sign(F32x2 magnitude, F32x2 x) {
  return {copy_sign(magnitude.lo, x.lo), copy_sign(magnitude.hi, x.hi)};
}
FUSED_ACTS_INLINE F32x2 clamp_above(F32x2 x, float bound) {
  return {clamp_above(x.lo, bound), clamp_above(x.hi, bound)};
}
FUSED_ACTS_INLINE F32x2 at_most(F32x2 x, F32x2 bound) {
  return {at_most(x.lo, bound.lo), at_most(x.hi, bound.hi)};
}
FUSED_ACTS_INLINE F32x2 clamp(F32x2 x, F32x2 low, F32x2 high) {
  return {clamp(x.lo, low.lo, high.lo), clamp(x.hi, low.hi, high.hi)};
}
FUSED_ACTS_INLINE F32x2 clamp_below(F32x2 x, float bound) {
  return {clamp_below(x.lo, bound), clamp_below(x.hi, bound)};
}
FUSED_ACTS_INLINE F32x2 quotient(F32x2 a, F32x2 b) {
  return {quotient(a.lo, b.lo), quotient(a.hi, b.hi)};
}
FUSED_ACTS_INLINE F32x2 saturated_fma(F32x2 a, F32x2 b, F32x2 c) {
  return {saturated_fma(a.lo, b.lo, c.lo), saturated_fma(a.hi, b.hi, c.hi)};
}
FUSED_ACTS_INLINE F32x2 positive_part(F32x2 x, float zero = 0.0f) {
  return {positive_part(x.lo, zero), positive_part(x.hi, zero)};
}
FUSED_ACTS_INLINE Bool2 positive_or_nan(F32x2 x) {
  return {positive_or_nan(x.lo), positive_or_nan(x.hi)};
}
FUSED_ACTS_INLINE F32x2 reciprocal(F32x2 x) { return {reciprocal(x.lo), reciprocal(x.hi)}; }
FUSED_ACTS_INLINE F32x2 quotient_of_any(F32x2 a, F32x2 b) {
  return {quotient_of_any(a.lo, b.lo), quotient_of_any(a.hi, b.hi)};
}
FUSED_ACTS_INLINE F32x2 reciprocal_of_any(F32x2 x) {
  return {reciprocal_of_any(x.lo), reciprocal_of_any(x.hi)};
}
FUSED_ACTS_INLINE F32x2 sqrt(F32x2 x) { return {sqrt(x.lo), sqrt(x.hi)}; }
FUSED_ACTS_INLINE F32x2 rsqrt(F32x2 x) { return {rsqrt(x.lo), rsqrt(x.hi)}; }
FUSED_ACTS_INLINE Split<F32x2> split(F32x2 x) {
  auto low = split(x.lo), high = split(x.hi);
  return {{low.mantissa, high.mantissa}, {low.exponent, high.exponent}};
}
FUSED_ACTS_INLINE F32x2 exp2_fast(F32x2 t) { return {exp2_fast(t.lo), exp2_fast(t.hi)}; }

}  // namespace fused_acts
