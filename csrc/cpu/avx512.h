// Registers of floats from and to memory in every storage type. Only for files compiled for
// AVX-512.
#pragma once

#include "f32xn.h"

namespace fused_acts::cpu {

constexpr int64_t kLanes = 16;
constexpr int kTogether =
    4;  // registers in step; more do not fit the register file with a GELU's constants

// bfloat16 on a processor that lacks its conversion instruction.
struct BFloat16ByHand : BFloat16 {};

FUSED_ACTS_INLINE __m512 widen(__m256i x, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FUSED_ACTS_INLINE __m512 widen(__m256i x, const Float16*) { return _mm512_cvtph_ps(x); }

FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16*) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16ByHand*) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, Float16*) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// How a step of a loop reads and writes: all lanes of K registers, past the caches if so wanted, or
// the first n of one.
template <int K, bool kStreams>
struct Whole {
  static constexpr int kRegisters = K;

  static FUSED_ACTS_INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static FUSED_ACTS_INLINE void store(float* p, __m512 x) {
    kStreams ? _mm512_stream_ps(p, x) : _mm512_storeu_ps(p, x);
  }
  template <class T>
  static FUSED_ACTS_INLINE __m512 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }
  template <class T>
  static FUSED_ACTS_INLINE void store(T* p, __m512 x) {
    auto* target = reinterpret_cast<__m256i*>(p);
    kStreams ? _mm256_stream_si256(target, narrow(x, p))
             : _mm256_storeu_si256(target, narrow(x, p));
  }
};

struct Partial {
  static constexpr int kRegisters = 1;
  __mmask16 lanes;

  explicit Partial(int64_t n) : lanes(static_cast<__mmask16>((1u << n) - 1)) {}
  FUSED_ACTS_INLINE __m512 load(const float* p) const { return _mm512_maskz_loadu_ps(lanes, p); }
  FUSED_ACTS_INLINE void store(float* p, __m512 x) const { _mm512_mask_storeu_ps(p, lanes, x); }
  template <class T>
  FUSED_ACTS_INLINE __m512 load(const T* p) const {
    return widen(_mm256_maskz_loadu_epi16(lanes, p), p);
  }
  template <class T>
  FUSED_ACTS_INLINE void store(T* p, __m512 x) const {
    _mm256_mask_storeu_epi16(p, lanes, narrow(x, p));
  }
};

template <class Access, class T>
FUSED_ACTS_INLINE auto load(const Access& access, const T* p) {
  F32xN<Access::kRegisters> result;
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i) result.v[i] = access.load(p + i * kLanes);
  return result;
}
template <class Access, class T, class Reals>
FUSED_ACTS_INLINE void store(const Access& access, T* p, Reals x) {
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i) access.store(p + i * kLanes, x.v[i]);
}

}  // namespace fused_acts::cpu
