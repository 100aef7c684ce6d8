// What AVX-512 (F, BW, DQ, VL) does with a register, see vec.h and access.h. Only for files
// compiled for it.
#pragma once

#include "cpu/access.h"

namespace fused_acts {
namespace {

struct Avx512 {
  using Lane = float;
  using Float = __m512;
  using Half = __m256i;   // kLanes elements of 16 bits
  using Words = __m512i;  // twice as many
  using Mask = __mmask16;
  static constexpr int kLanes = 16, kRegisters = 32;
  static constexpr bool kScales = true;
  template <int K>
  using Real = Vec<Avx512, K>;

  static FUSED_ACTS_INLINE Float broadcast(float x) { return _mm512_set1_ps(x); }
  static FUSED_ACTS_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static FUSED_ACTS_INLINE Float abs(Float x) { return _mm512_abs_ps(x); }
  static FUSED_ACTS_INLINE Float copy_sign(Float magnitude, Float x) {
    const Float sign = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(sign, magnitude), _mm512_and_ps(sign, x));
  }
  static FUSED_ACTS_INLINE Mask greater(Float a, Float b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  }
  static FUSED_ACTS_INLINE Mask at_least(Float a, Float b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
  }
  static FUSED_ACTS_INLINE Mask positive_or_nan(Float x) {
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ);
  }
  static FUSED_ACTS_INLINE Float select(Mask condition, Float a, Float b) {
    return _mm512_mask_blend_ps(condition, b, a);
  }
  // The minimum and maximum instructions return their second operand if one is NaN.
  static FUSED_ACTS_INLINE Float min_or_bound(Float x, Float bound) {
    return _mm512_min_ps(x, bound);
  }
  static FUSED_ACTS_INLINE Float min_or_nan(Float x, Float bound) {
    return _mm512_min_ps(bound, x);
  }
  static FUSED_ACTS_INLINE Float max_or_nan(Float x, Float bound) {
    return _mm512_max_ps(bound, x);
  }
  static FUSED_ACTS_INLINE Float positive_part(Float x, Float zero) { return max_or_nan(x, zero); }

  // 1/x to 0.53 ulp, subnormals included, 0 for infinity, infinity where it overflows: an estimate
  // good to 14 bits and a Newton step.
  static FUSED_ACTS_INLINE Float reciprocal(Float x) {
    const Float estimate = _mm512_rcp14_ps(x);
    const Float error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f));
    // not so for infinity and below 2^-128, which have NaN or -inf there
    const Mask usable = _mm512_cmp_ps_mask(error, _mm512_set1_ps(-2.0f), _CMP_GT_OQ);
    return _mm512_mask_fmadd_ps(estimate, usable, error, estimate);
  }
  static FUSED_ACTS_INLINE Float reciprocal_of_finite(Float x) {
    const Float estimate = _mm512_rcp14_ps(x);
    const Float error = _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(1.0f));
    return _mm512_fmadd_ps(estimate, error, estimate);
  }
  static FUSED_ACTS_INLINE Float coarse_reciprocal(Float x) { return _mm512_rcp14_ps(x); }
  static FUSED_ACTS_INLINE Float sqrt(Float x) { return _mm512_sqrt_ps(x); }
  static FUSED_ACTS_INLINE Float split(Float x, Float* mantissa) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i distance = _mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3));  // sqrt(1/2)
    const __m512i exponent = _mm512_srai_epi32(distance, 23);
    *mantissa = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(exponent, 23)));
    return _mm512_cvtepi32_ps(exponent);
  }

  static FUSED_ACTS_INLINE Float scale(Float p, Float n) { return _mm512_scalef_ps(p, n); }
  static FUSED_ACTS_INLINE Float rounded(Float x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // t - floor(t), 0 for an infinity
  static FUSED_ACTS_INLINE Float fraction(Float t) {
    return _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }

  static FUSED_ACTS_INLINE Float widen(Half x, BFloat16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static FUSED_ACTS_INLINE Float widen(Half x, Float16) { return _mm512_cvtph_ps(x); }
  static FUSED_ACTS_INLINE Half narrow(Float x, BFloat16) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_to_16_bits(x), 16));
  }
  static FUSED_ACTS_INLINE Half narrow(Float x, Float16) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  // Two registers as 16-bit elements that alternate, and back.
  static FUSED_ACTS_INLINE Float even(Words words, BFloat16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
  static FUSED_ACTS_INLINE Float odd(Words words, BFloat16) {
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff)));
  }
  static FUSED_ACTS_INLINE Float even(Words words, Float16) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
  }
  static FUSED_ACTS_INLINE Float odd(Words words, Float16) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
  }
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, BFloat16) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded_to_16_bits(even), 16),
                                   rounded_to_16_bits(odd));
  }
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, Float16 type) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(even, type)),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(odd, type)), 16));
  }
  static FUSED_ACTS_INLINE void split(Float first, Float second, Float* even, Float* odd) {
    const __m512i from =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    *even = _mm512_permutex2var_ps(first, from, second);
    *odd = _mm512_permutex2var_ps(first, _mm512_add_epi32(from, _mm512_set1_epi32(1)), second);
  }
  static FUSED_ACTS_INLINE void join(Float even, Float odd, Float* first, Float* second) {
    const __m512i from = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    *first = _mm512_permutex2var_ps(even, from, odd);
    *second = _mm512_permutex2var_ps(even, _mm512_add_epi32(from, _mm512_set1_epi32(8)), odd);
  }

  // The first n elements of a register.
  static FUSED_ACTS_INLINE Float read(const float* p, int64_t n, Float) {
    return _mm512_maskz_loadu_ps(lanes(n), p);
  }
  static FUSED_ACTS_INLINE Half read(const void* p, int64_t n, Half) {
    return _mm256_maskz_loadu_epi16(lanes(n), p);
  }
  static FUSED_ACTS_INLINE Words read(const void* p, int64_t n, Words) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p);
  }
  static FUSED_ACTS_INLINE void write(float* p, int64_t n, Float x) {
    _mm512_mask_storeu_ps(p, lanes(n), x);
  }
  static FUSED_ACTS_INLINE void write(void* p, int64_t n, Half x) {
    _mm256_mask_storeu_epi16(p, lanes(n), x);
  }
  static FUSED_ACTS_INLINE void write(void* p, int64_t n, Words x) {
    _mm512_mask_storeu_epi16(p, static_cast<__mmask32>((uint64_t{1} << n) - 1), x);
  }

  // Past the caches, to aligned addresses.
  static constexpr bool kStreams = true;
  static FUSED_ACTS_INLINE void stream(float* p, Float x) { _mm512_stream_ps(p, x); }
  static FUSED_ACTS_INLINE void stream(void* p, Half x) {
    _mm256_stream_si256(static_cast<__m256i*>(p), x);
  }
  static FUSED_ACTS_INLINE void stream(void* p, Words x) {
    _mm512_stream_si512(static_cast<__m512i*>(p), x);
  }
  static FUSED_ACTS_INLINE void fence() { _mm_sfence(); }

 private:
  static FUSED_ACTS_INLINE Mask lanes(int64_t n) { return static_cast<Mask>((1u << n) - 1); }
  // To bfloat16 in the upper halves of lanes; what the lower ones hold is of no use.
  static FUSED_ACTS_INLINE __m512i rounded_to_16_bits(Float x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const Mask nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(sum, nan, bits, _mm512_set1_epi32(0x400000));
  }
};

// With the conversions of AVX512-BF16.
struct Avx512Bf16 : Avx512 {
  template <int K>
  using Real = Vec<Avx512Bf16, K>;

  using Avx512::alternate;
  using Avx512::narrow;
  static FUSED_ACTS_INLINE Half narrow(Float x, BFloat16) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  }
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, BFloat16) {
    const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    const __m512i from =
        _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                         0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                         0x00130003, 0x00120002, 0x00110001, 0x00100000);
    return _mm512_permutexvar_epi16(from, halves);
  }
};

}  // namespace
}  // namespace fused_acts
