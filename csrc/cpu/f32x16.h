// Sixteen floats in one AVX-512 register, with the primitives of real_math.h. Only for files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include "../numeric.h"

namespace fused_acts {

struct F32x16 {
  __m512 v;

  F32x16() = default;
  FUSED_ACTS_INLINE F32x16(__m512 v) : v(v) {}
  FUSED_ACTS_INLINE explicit F32x16(float x) : v(_mm512_set1_ps(x)) {}
};

FUSED_ACTS_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return _mm512_add_ps(a.v, b.v); }
FUSED_ACTS_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return _mm512_sub_ps(a.v, b.v); }
FUSED_ACTS_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return _mm512_mul_ps(a.v, b.v); }
FUSED_ACTS_INLINE F32x16 operator-(F32x16 a) { return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f)); }
FUSED_ACTS_INLINE __mmask16 operator>(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
FUSED_ACTS_INLINE F32x16 select(__mmask16 condition, F32x16 a, F32x16 b) {
  return _mm512_mask_blend_ps(condition, b.v, a.v);
}

FUSED_ACTS_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
FUSED_ACTS_INLINE F32x16 exact_fma(F32x16 a, F32x16 b, F32x16 c) { return fma(a, b, c); }
FUSED_ACTS_INLINE F32x16 abs(F32x16 x) { return _mm512_abs_ps(x.v); }

// The minimum and maximum instructions return their second operand if one is NaN.
FUSED_ACTS_INLINE F32x16 clamp_above(F32x16 x, float bound) { return _mm512_min_ps(x.v, _mm512_set1_ps(bound)); }
FUSED_ACTS_INLINE F32x16 clamp(F32x16 x, float low, float high) {
  return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x.v));
}
FUSED_ACTS_INLINE F32x16 positive_part(F32x16 x) { return _mm512_max_ps(_mm512_setzero_ps(), x.v); }

// 1/x to about 1 ulp for normal x with a normal inverse: an estimate good to 14 bits and a Newton step.
FUSED_ACTS_INLINE F32x16 reciprocal(F32x16 x) {
  const F32x16 estimate = _mm512_rcp14_ps(x.v);
  return fma(estimate, _mm512_fnmadd_ps(x.v, estimate.v, _mm512_set1_ps(1.0f)), estimate);
}

FUSED_ACTS_INLINE F32x16 round_to_integer(F32x16 x) {
  return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FUSED_ACTS_INLINE F32x16 scale_down(F32x16 p, F32x16 n) { return _mm512_scalef_ps(p.v, n.v); }
FUSED_ACTS_INLINE F32x16 scale_down_or_flush(F32x16 p, F32x16 n) { return scale_down(p, n); }

// 2^t to about 3e-6, at most 2^127.
FUSED_ACTS_INLINE F32x16 exp2_fast(F32x16 t) {
  t = _mm512_min_ps(_mm512_set1_ps(127.0f), t.v);
  // t - floor(t), 0 for -inf; the scaling below takes the floor of its exponent by itself
  const F32x16 fraction = _mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const F32x16 p = polynomial(fraction, 1.0f, 0.69304484f, 0.2412802f, 0.052242473f, 0.013426685f);
  return _mm512_scalef_ps(p.v, t.v);
}

}  // namespace fused_acts
