// The way of floats in AVX-512 registers from and to memory in every storage type. Only for files
// compiled for AVX-512.
#pragma once

#include "cpu/simd_avx512.h"

namespace fused_acts {
namespace cpu {
namespace {

constexpr int64_t kLanes = 16;

// bfloat16 on a processor that lacks its conversion instruction.
struct BFloat16ByHand : BFloat16 {};

FUSED_ACTS_INLINE __m512 widen(__m256i x, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FUSED_ACTS_INLINE __m512 widen(__m256i x, const Float16*) { return _mm512_cvtph_ps(x); }

FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16*) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
}
// In the upper halves of lanes; what the lower ones hold is of no use.
FUSED_ACTS_INLINE __m512i rounded_by_hand(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16ByHand*) {
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_by_hand(x), 16));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, Float16*) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Two registers as 32 elements of 16 bits that alternate, and back.
FUSED_ACTS_INLINE __m512 even_lanes(__m512i words, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
FUSED_ACTS_INLINE __m512 odd_lanes(__m512i words, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff)));
}
FUSED_ACTS_INLINE __m512 even_lanes(__m512i words, const Float16*) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}
FUSED_ACTS_INLINE __m512 odd_lanes(__m512i words, const Float16*) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
}
FUSED_ACTS_INLINE __m512i alternate(__m512 even, __m512 odd, BFloat16*) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  const __m512i low =
      _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                       0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                       0x00130003, 0x00120002, 0x00110001, 0x00100000);
  return _mm512_permutexvar_epi16(low, halves);
}
FUSED_ACTS_INLINE __m512i alternate(__m512 even, __m512 odd, BFloat16ByHand*) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded_by_hand(even), 16),
                                 rounded_by_hand(odd));
}
FUSED_ACTS_INLINE __m512i alternate(__m512 even, __m512 odd, Float16* p) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(narrow(even, p)),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(odd, p)), 16));
}

// How a step of a loop reads and writes: all lanes of K registers, with non-temporal stores if so
// wanted, or the first n of one.
template <int K, bool kNonTemporal>
struct Full {
  static constexpr int kRegisters = K;

  static FUSED_ACTS_INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static FUSED_ACTS_INLINE void store(float* p, __m512 x) {
    kNonTemporal ? _mm512_stream_ps(p, x) : _mm512_storeu_ps(p, x);
  }
  template <class T>
  static FUSED_ACTS_INLINE __m512 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }
  template <class T>
  static FUSED_ACTS_INLINE void store(T* p, __m512 x) {
    auto* target = reinterpret_cast<__m256i*>(p);
    kNonTemporal ? _mm256_stream_si256(target, narrow(x, p))
                 : _mm256_storeu_si256(target, narrow(x, p));
  }
  // 32 elements
  template <class T>
  static FUSED_ACTS_INLINE __m512i load_words(const T* p) {
    return _mm512_loadu_si512(p);
  }
  template <class T>
  static FUSED_ACTS_INLINE void store_words(T* p, __m512i words) {
    kNonTemporal ? _mm512_stream_si512(reinterpret_cast<__m512i*>(p), words)
                 : _mm512_storeu_si512(p, words);
  }
  // 16 elements, of 32
  static FUSED_ACTS_INLINE __m512 load_first(const float* p) { return load(p); }
  static FUSED_ACTS_INLINE __m512 load_second(const float* p) { return load(p); }
  static FUSED_ACTS_INLINE void store_first(float* p, __m512 x) { store(p, x); }
  static FUSED_ACTS_INLINE void store_second(float* p, __m512 x) { store(p, x); }
};

// The first n of a register, and of 2*n in two.
struct Masked {
  static constexpr int kRegisters = 1;
  __mmask16 lanes;
  __mmask32 words;

  FUSED_ACTS_INLINE explicit Masked(int64_t n)
      : lanes(static_cast<__mmask16>((1u << n) - 1)),
        words(static_cast<__mmask32>((uint64_t{1} << 2 * n) - 1)) {}
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
  template <class T>
  FUSED_ACTS_INLINE __m512i load_words(const T* p) const {
    return _mm512_maskz_loadu_epi16(words, p);
  }
  template <class T>
  FUSED_ACTS_INLINE void store_words(T* p, __m512i x) const {
    _mm512_mask_storeu_epi16(p, words, x);
  }
  FUSED_ACTS_INLINE __m512 load_first(const float* p) const {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(words), p);
  }
  FUSED_ACTS_INLINE __m512 load_second(const float* p) const {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(words >> 16), p);
  }
  FUSED_ACTS_INLINE void store_first(float* p, __m512 x) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(words), x);
  }
  FUSED_ACTS_INLINE void store_second(float* p, __m512 x) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(words >> 16), x);
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

// Elements in an order of their own, the same for all operands of a type: bfloat16 has no shorter
// way into registers than two at a time.
template <class Access, class T>
constexpr bool kAlternates = std::is_base_of_v<BFloat16, T> && Access::kRegisters % 2 == 0;

template <class Access, class T>
FUSED_ACTS_INLINE auto load_in_any_order(const Access& access, const T* p) {
  if constexpr (!kAlternates<Access, T>) {
    return load(access, p);
  } else {
    F32xN<Access::kRegisters> result;
#pragma GCC unroll 8
    for (int i = 0; i < Access::kRegisters; i += 2) {
      const __m512i words = access.load_words(p + i * kLanes);
      result.v[i] = even_lanes(words, p);
      result.v[i + 1] = odd_lanes(words, p);
    }
    return result;
  }
}
template <class Access, class T, class Reals>
FUSED_ACTS_INLINE void store_in_any_order(const Access& access, T* p, Reals x) {
  if constexpr (!kAlternates<Access, T>) {
    store(access, p, x);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < Access::kRegisters; i += 2)
      access.store_words(p + i * kLanes, alternate(x.v[i], x.v[i + 1], p));
  }
}

// Pairs of neighbours, as two operands.
template <int K>
struct Pair {
  F32xN<K> even, odd;
};

template <class Access, class T>
FUSED_ACTS_INLINE auto load_pairs(const Access& access, const T* p) {
  Pair<Access::kRegisters> pair;
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i, p += 2 * kLanes) {
    if constexpr (std::is_same_v<T, float>) {
      const __m512 first = access.load_first(p), second = access.load_second(p + kLanes);
      const __m512i even =
          _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
      pair.even.v[i] = _mm512_permutex2var_ps(first, even, second);
      pair.odd.v[i] = _mm512_permutex2var_ps(first, odd, second);
    } else {
      const __m512i words = access.load_words(p);
      pair.even.v[i] = even_lanes(words, p);
      pair.odd.v[i] = odd_lanes(words, p);
    }
  }
  return pair;
}
template <class Access, class T, class Reals>
FUSED_ACTS_INLINE void store_pairs(const Access& access, T* p, Reals even, Reals odd) {
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i, p += 2 * kLanes) {
    if constexpr (std::is_same_v<T, float>) {
      const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
      const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
      access.store_first(p, _mm512_permutex2var_ps(even.v[i], low, odd.v[i]));
      access.store_second(p + kLanes, _mm512_permutex2var_ps(even.v[i], high, odd.v[i]));
    } else {
      access.store_words(p, alternate(even.v[i], odd.v[i], p));
    }
  }
}

}  // namespace
}  // namespace cpu
}  // namespace fused_acts
