// Floats in AVX-512 registers: the operations of math/primitives.h. Only for files compiled for
// AVX-512.
//
// All of it, and so whatever is made of F32xN, is of one translation unit: an AVX-512 copy of a
// shared function would be a fault on another processor.
#pragma once

#include "math/storage.h"

namespace fused_acts {
namespace {

// K registers of 16 floats that go through a computation in step: one chain of dependent
// instructions alone would leave the processor waiting most of the time.
template <int K>
struct F32xN {
  __m512 v[K];

  F32xN() = default;
  FUSED_ACTS_INLINE explicit F32xN(float x) {
    for (int i = 0; i < K; ++i) v[i] = _mm512_set1_ps(x);
  }
};

template <int K>
struct MaskN {
  __mmask16 v[K];
};

// The registers of op(a's register, b's register, ...)
template <int K, class Op, class... Args>
FUSED_ACTS_INLINE F32xN<K> each(Op op, const Args&... args) {
  F32xN<K> result;
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) result.v[i] = op(args.v[i]...);
  return result;
}

template <int K>
FUSED_ACTS_INLINE F32xN<K> operator+(F32xN<K> a, F32xN<K> b) {
  return each<K>([](__m512 a, __m512 b) FUSED_ACTS_SIMD { return _mm512_add_ps(a, b); }, a, b);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> operator-(F32xN<K> a, F32xN<K> b) {
  return each<K>([](__m512 a, __m512 b) FUSED_ACTS_SIMD { return _mm512_sub_ps(a, b); }, a, b);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> operator*(F32xN<K> a, F32xN<K> b) {
  return each<K>([](__m512 a, __m512 b) FUSED_ACTS_SIMD { return _mm512_mul_ps(a, b); }, a, b);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> operator-(F32xN<K> a) {
  return each<K>([](__m512 a) FUSED_ACTS_SIMD { return -a; }, a);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> fma(F32xN<K> a, F32xN<K> b, F32xN<K> c) {
  return each<K>([](__m512 a, __m512 b, __m512 c)
                     FUSED_ACTS_SIMD { return _mm512_fmadd_ps(a, b, c); },
                 a, b, c);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> abs(F32xN<K> x) {
  return each<K>([](__m512 x) FUSED_ACTS_SIMD { return _mm512_abs_ps(x); }, x);
}

template <int K>
FUSED_ACTS_INLINE MaskN<K> operator>(F32xN<K> a, F32xN<K> b) {
  MaskN<K> result;
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) result.v[i] = _mm512_cmp_ps_mask(a.v[i], b.v[i], _CMP_GT_OQ);
  return result;
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> select(MaskN<K> condition, F32xN<K> a, F32xN<K> b) {
  return each<K>([](__mmask16 c, __m512 a, __m512 b)
                     FUSED_ACTS_SIMD { return _mm512_mask_blend_ps(c, b, a); },
                 condition, a, b);
}

// The minimum and maximum instructions return their second operand if one is NaN.
template <int K>
FUSED_ACTS_INLINE F32xN<K> clamp_above(F32xN<K> x, float bound) {
  return each<K>([=](__m512 x) FUSED_ACTS_SIMD { return _mm512_min_ps(x, _mm512_set1_ps(bound)); },
                 x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> at_most(F32xN<K> x, float bound) {
  return each<K>([=](__m512 x) FUSED_ACTS_SIMD { return _mm512_min_ps(_mm512_set1_ps(bound), x); },
                 x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> clamp_below(F32xN<K> x, float bound) {
  return each<K>([=](__m512 x) FUSED_ACTS_SIMD { return _mm512_max_ps(_mm512_set1_ps(bound), x); },
                 x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> clamp(F32xN<K> x, float low, float high) {
  return each<K>(
      [=](__m512 x) FUSED_ACTS_SIMD {
        return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x));
      },
      x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> clamp_finite(F32xN<K> x) {
  return clamp(x, -1e30f, 1e30f);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> copy_sign(F32xN<K> magnitude, F32xN<K> x) {
  return each<K>(
      [](__m512 magnitude, __m512 x) FUSED_ACTS_SIMD {
        const __m512 sign = _mm512_set1_ps(-0.0f);
        return _mm512_or_ps(_mm512_andnot_ps(sign, magnitude), _mm512_and_ps(sign, x));
      },
      magnitude, x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> positive_part(F32xN<K> x, float zero = 0.0f) {
  return clamp_below(x, zero);
}
template <int K>
FUSED_ACTS_INLINE MaskN<K> positive_or_nan(F32xN<K> x) {
  MaskN<K> result;
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i)
    result.v[i] = _mm512_cmp_ps_mask(x.v[i], _mm512_setzero_ps(), _CMP_NLE_UQ);
  return result;
}

// 1/x to 0.53 ulp, subnormals included, 0 for infinity, infinity where it overflows: an estimate
// good to 14 bits and a Newton step.
template <int K>
FUSED_ACTS_INLINE F32xN<K> reciprocal(F32xN<K> x) {
  return each<K>(
      [](__m512 x) FUSED_ACTS_SIMD {
        const __m512 estimate = _mm512_rcp14_ps(x);
        const __m512 error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f));
        // not so for infinity and below 2^-128, which have NaN or -inf there
        const __mmask16 usable = _mm512_cmp_ps_mask(error, _mm512_set1_ps(-2.0f), _CMP_GT_OQ);
        return _mm512_mask_fmadd_ps(estimate, usable, error, estimate);
      },
      x);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> reciprocal_of_finite(F32xN<K> x) {
  return each<K>(
      [](__m512 x) FUSED_ACTS_SIMD {
        const __m512 estimate = _mm512_rcp14_ps(x);
        const __m512 error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f));
        return _mm512_fmadd_ps(estimate, error, estimate);
      },
      x);
}

template <int K>
FUSED_ACTS_INLINE F32xN<K> quotient(F32xN<K> a, F32xN<K> b) {
  return each<K>([](__m512 a, __m512 b) FUSED_ACTS_SIMD { return _mm512_div_ps(a, b); }, a, b);
}

template <int K>
FUSED_ACTS_INLINE F32xN<K> scale_down(F32xN<K> p, F32xN<K> n) {
  return each<K>([](__m512 p, __m512 n) FUSED_ACTS_SIMD { return _mm512_scalef_ps(p, n); }, p, n);
}
template <int K>
FUSED_ACTS_INLINE F32xN<K> scale_down_or_flush(F32xN<K> p, F32xN<K> n) {
  return scale_down(p, n);
}

// 2^t to about 3e-6.
template <int K>
FUSED_ACTS_INLINE F32xN<K> exp2_fast(F32xN<K> t) {
  // t - floor(t), 0 for an infinity; the scaling below takes the floor of its exponent by itself
  const F32xN<K> fraction = each<K>(
      [](__m512 t) FUSED_ACTS_SIMD {
        return _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      },
      t);
  return scale_down(polynomial(fraction, 1.0f, 0.69304484f, 0.2412802f, 0.052242473f, 0.013426685f),
                    t);
}

}  // namespace

}  // namespace fused_acts
