// What AVX2 with FMA and F16C does with a register, see vec.h and access.h. Only for files compiled
// for it.
#pragma once

#include "cpu/access.h"

namespace fused_acts {
namespace {

struct Avx2 {
  using Lane = float;
  using Float = __m256;
  using Half = __m128i;   // kLanes elements of 16 bits
  using Words = __m256i;  // twice as many
  using Mask = __m256;
  static constexpr int kLanes = 8, kRegisters = 16;
  static constexpr bool kScales = false, kStreams = true;
  template <int K>
  using Real = Vec<Avx2, K>;

  static FUSED_ACTS_INLINE Float broadcast(float x) { return _mm256_set1_ps(x); }
  static FUSED_ACTS_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static FUSED_ACTS_INLINE Float abs(Float x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static FUSED_ACTS_INLINE Float copy_sign(Float magnitude, Float x) {
    return _mm256_or_ps(abs(magnitude), _mm256_and_ps(_mm256_set1_ps(-0.0f), x));
  }
  static FUSED_ACTS_INLINE Mask greater(Float a, Float b) {
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
  }
  static FUSED_ACTS_INLINE Mask at_least(Float a, Float b) {
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
  }
  static FUSED_ACTS_INLINE Mask positive_or_nan(Float x) {
    return _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLE_UQ);
  }
  static FUSED_ACTS_INLINE Float select(Mask condition, Float a, Float b) {
    return _mm256_blendv_ps(b, a, condition);
  }
  // The minimum and maximum instructions return their second operand if one is NaN.
  static FUSED_ACTS_INLINE Float min_or_bound(Float x, Float bound) {
    return _mm256_min_ps(x, bound);
  }
  static FUSED_ACTS_INLINE Float min_or_nan(Float x, Float bound) {
    return _mm256_min_ps(bound, x);
  }
  static FUSED_ACTS_INLINE Float max_or_nan(Float x, Float bound) {
    return _mm256_max_ps(bound, x);
  }
  static FUSED_ACTS_INLINE Float positive_part(Float x, Float zero) { return max_or_nan(x, zero); }

  static FUSED_ACTS_INLINE Float reciprocal(Float x) { return _mm256_set1_ps(1.0f) / x; }
  static FUSED_ACTS_INLINE Float reciprocal_of_finite(Float x) { return reciprocal(x); }
  static FUSED_ACTS_INLINE Float coarse_reciprocal(Float x) { return reciprocal(x); }
  static FUSED_ACTS_INLINE Float sqrt(Float x) { return _mm256_sqrt_ps(x); }
  static FUSED_ACTS_INLINE Float split(Float x, Float* mantissa) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i distance = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3));  // sqrt(1/2)
    const __m256i exponent = _mm256_srai_epi32(distance, 23);
    *mantissa = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)));
    return _mm256_cvtepi32_ps(exponent);
  }
  static FUSED_ACTS_INLINE Float power_of_two(Float n) {
    const Float biased = _mm256_max_ps(n, _mm256_set1_ps(-127.0f)) + _mm256_set1_ps(127.0f);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvttps_epi32(biased), 23));
  }

  static FUSED_ACTS_INLINE Float widen(Half x, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static FUSED_ACTS_INLINE Float widen(Half x, Float16) { return _mm256_cvtph_ps(x); }
  static FUSED_ACTS_INLINE Half narrow(Float x, BFloat16) {
    return halves(_mm256_srli_epi32(rounded(x), 16));
  }
  static FUSED_ACTS_INLINE Half narrow(Float x, Float16) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  }

  // Two registers as 16-bit elements that alternate, and back.
  static FUSED_ACTS_INLINE Float even(Words words, BFloat16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
  static FUSED_ACTS_INLINE Float odd(Words words, BFloat16) {
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(~0xffff)));
  }
  static FUSED_ACTS_INLINE Float even(Words words, Float16) {
    return _mm256_cvtph_ps(halves(_mm256_and_si256(words, _mm256_set1_epi32(0xffff))));
  }
  static FUSED_ACTS_INLINE Float odd(Words words, Float16) {
    return _mm256_cvtph_ps(halves(_mm256_srli_epi32(words, 16)));
  }
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, BFloat16) {
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded(even), 16), rounded(odd), 0xaa);
  }
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, Float16 type) {
    return _mm256_or_si256(_mm256_cvtepu16_epi32(narrow(even, type)),
                           _mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow(odd, type)), 16));
  }
  static FUSED_ACTS_INLINE void split(Float first, Float second, Float* even, Float* odd) {
    const Float low = _mm256_permute2f128_ps(first, second, 0x20);
    const Float high = _mm256_permute2f128_ps(first, second, 0x31);
    *even = _mm256_shuffle_ps(low, high, 0x88);
    *odd = _mm256_shuffle_ps(low, high, 0xdd);
  }
  static FUSED_ACTS_INLINE void join(Float even, Float odd, Float* first, Float* second) {
    const Float low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *first = _mm256_permute2f128_ps(low, high, 0x20);
    *second = _mm256_permute2f128_ps(low, high, 0x31);
  }

  template <class T, class Register>
  static FUSED_ACTS_INLINE Register read(const T* p, int64_t n, Register) {
    return read_through_buffer<Register>(p, n);
  }
  template <class T, class Register>
  static FUSED_ACTS_INLINE void write(T* p, int64_t n, Register x) {
    write_through_buffer(p, n, x);
  }

  // Past the caches, to aligned addresses.
  static FUSED_ACTS_INLINE void stream(float* p, Float x) { _mm256_stream_ps(p, x); }
  static FUSED_ACTS_INLINE void stream(void* p, Half x) {
    _mm_stream_si128(static_cast<__m128i*>(p), x);
  }
  static FUSED_ACTS_INLINE void stream(void* p, Words x) {
    _mm256_stream_si256(static_cast<__m256i*>(p), x);
  }
  static FUSED_ACTS_INLINE void fence() { _mm_sfence(); }

 private:
  // The lower halves of lanes, which are the lanes' values.
  static FUSED_ACTS_INLINE Half halves(__m256i x) {
    const __m256i packed = _mm256_packus_epi32(x, x);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
  // To bfloat16 in the upper halves of lanes; what the lower ones hold is of no use.
  static FUSED_ACTS_INLINE __m256i rounded(Float x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const Float quiet = _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x400000)));
    const Mask nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_castps_si256(select(nan, quiet, _mm256_castsi256_ps(sum)));
  }
};

}  // namespace
}  // namespace fused_acts
