// Conversion between 16-bit storage and float: portable, and by the instructions there are for it.
#include "cpu/convert.h"

#include <cstring>

#include "cpu/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fused_acts::cpu {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float load(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

float load(Float16 x) {
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  // the exponents differ by 112, which a multiplication makes up for subnormal numbers too
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of((magnitude >= 0x0f800000u ? special : finite) | (x.bits & 0x8000u) << 16);
}

void store(float x, BFloat16* target) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const uint32_t nan = bits >> 16 | 0x40u;
  target->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

void store(float x, Float16* target) {
  const uint32_t magnitude = bits_of(x) & 0x7fffffffu;
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u;
  // the spacing of subnormal halves is that of floats from 0.5 to 1
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  target->bits = static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite));
}

template <class T>
FUSED_ACTS_WIDE_CLONES void load_all(const T* source, float* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = load(source[i]);
}

template <class T>
FUSED_ACTS_WIDE_CLONES void store_all(const float* source, T* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) store(source[i], target + i);
}

#if defined(__x86_64__)

// The conversion instructions of AVX2 and AVX-512 processors, which compilers do not form from the
// loops above.

__attribute__((target("avx,f16c"))) void load_f16c(const Float16* source, float* target,
                                                   int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(bits));
  }
  load_all(source + i, target + i, n - i);
}

__attribute__((target("avx,f16c"))) void store_f16c(const float* source, Float16* target,
                                                    int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), bits);
  }
  store_all(source + i, target + i, n - i);
}

__attribute__((target("avx512f,avx512bf16"))) void store_avx512(const float* source,
                                                                BFloat16* target, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256bh bits = _mm512_cvtneps_pbh(_mm512_loadu_ps(source + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i), reinterpret_cast<__m256i>(bits));
  }
  store_all(source + i, target + i, n - i);
}

#endif

}  // namespace

void to_float(const BFloat16* source, float* target, int64_t n) noexcept {
  load_all(source, target, n);
}

void from_float(const float* source, BFloat16* target, int64_t n) noexcept {
#if defined(__x86_64__)
  if (isa() == Isa::kAvx512Bf16) return store_avx512(source, target, n);
#endif
  store_all(source, target, n);
}

void to_float(const Float16* source, float* target, int64_t n) noexcept {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx2) return load_f16c(source, target, n);
#endif
  load_all(source, target, n);
}

void from_float(const float* source, Float16* target, int64_t n) noexcept {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx2) return store_f16c(source, target, n);
#endif
  store_all(source, target, n);
}

}  // namespace fused_acts::cpu
