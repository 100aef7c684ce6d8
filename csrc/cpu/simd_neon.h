// What Neon does with a register, see vec.h and access.h. Only for aarch64.
#pragma once

#include <arm_neon.h>

#include "cpu/access.h"

namespace fused_acts {
namespace {

struct Neon {
  using Lane = float;
  using Float = float32x4_t;
  using Half = uint16x4_t;   // kLanes elements of 16 bits
  using Words = uint16x8_t;  // twice as many
  using Mask = uint32x4_t;
  static constexpr int kLanes = 4, kRegisters = 32;
  static constexpr bool kScales = false, kStreams = false;
  template <int K>
  using Real = Vec<Neon, K>;

  static FUSED_ACTS_INLINE Float broadcast(float x) { return vdupq_n_f32(x); }
  static FUSED_ACTS_INLINE Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static FUSED_ACTS_INLINE Float abs(Float x) { return vabsq_f32(x); }
  static FUSED_ACTS_INLINE Float copy_sign(Float magnitude, Float x) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, magnitude);
  }
  static FUSED_ACTS_INLINE Mask greater(Float a, Float b) { return vcgtq_f32(a, b); }
  static FUSED_ACTS_INLINE Mask at_least(Float a, Float b) { return vcgeq_f32(a, b); }
  static FUSED_ACTS_INLINE Mask positive_or_nan(Float x) { return vmvnq_u32(vclezq_f32(x)); }
  static FUSED_ACTS_INLINE Float select(Mask condition, Float a, Float b) {
    return vbslq_f32(condition, a, b);
  }
  static FUSED_ACTS_INLINE Float min_or_bound(Float x, Float bound) {
    return vminnmq_f32(x, bound);
  }
  static FUSED_ACTS_INLINE Float min_or_nan(Float x, Float bound) { return vminq_f32(x, bound); }
  static FUSED_ACTS_INLINE Float max_or_nan(Float x, Float bound) { return vmaxq_f32(x, bound); }
  // a maximum would turn -0 into +0
  static FUSED_ACTS_INLINE Float positive_part(Float x, Float zero) {
    return vbslq_f32(vcltzq_f32(x), zero, x);
  }

  static FUSED_ACTS_INLINE Float reciprocal(Float x) { return vdupq_n_f32(1.0f) / x; }
  static FUSED_ACTS_INLINE Float reciprocal_of_finite(Float x) { return reciprocal(x); }
  static FUSED_ACTS_INLINE Float coarse_reciprocal(Float x) { return reciprocal(x); }
  static FUSED_ACTS_INLINE Float sqrt(Float x) { return vsqrtq_f32(x); }
  static FUSED_ACTS_INLINE Float split(Float x, Float* mantissa) {
    const int32x4_t bits = vreinterpretq_s32_f32(x);
    const int32x4_t distance = vsubq_s32(bits, vdupq_n_s32(0x3f3504f3));  // sqrt(1/2)
    const int32x4_t exponent = vshrq_n_s32(distance, 23);
    *mantissa = vreinterpretq_f32_s32(vsubq_s32(bits, vshlq_n_s32(exponent, 23)));
    return vcvtq_f32_s32(exponent);
  }
  static FUSED_ACTS_INLINE Float power_of_two(Float n) {
    const Float biased = vmaxnmq_f32(n, vdupq_n_f32(-127.0f)) + vdupq_n_f32(127.0f);
    return vreinterpretq_f32_s32(vshlq_n_s32(vcvtq_s32_f32(biased), 23));
  }

  static FUSED_ACTS_INLINE Float widen(Half x, BFloat16) {
    return vreinterpretq_f32_u32(vshll_n_u16(x, 16));
  }
  static FUSED_ACTS_INLINE Float widen(Half x, Float16) {
    return vcvt_f32_f16(vreinterpret_f16_u16(x));
  }
  static FUSED_ACTS_INLINE Half narrow(Float x, BFloat16) { return vshrn_n_u32(rounded(x), 16); }
  static FUSED_ACTS_INLINE Half narrow(Float x, Float16) {
    return vreinterpret_u16_f16(vcvt_f16_f32(x));
  }

  // Two registers as 16-bit elements that alternate, and back.
  template <class T>
  static FUSED_ACTS_INLINE Float even(Words words, T type) {
    return widen(vget_low_u16(vuzp1q_u16(words, words)), type);
  }
  template <class T>
  static FUSED_ACTS_INLINE Float odd(Words words, T type) {
    return widen(vget_low_u16(vuzp2q_u16(words, words)), type);
  }
  template <class T>
  static FUSED_ACTS_INLINE Words alternate(Float even, Float odd, T type) {
    const Half a = narrow(even, type), b = narrow(odd, type);
    return vcombine_u16(vzip1_u16(a, b), vzip2_u16(a, b));
  }
  static FUSED_ACTS_INLINE void split(Float first, Float second, Float* even, Float* odd) {
    *even = vuzp1q_f32(first, second);
    *odd = vuzp2q_f32(first, second);
  }
  static FUSED_ACTS_INLINE void join(Float even, Float odd, Float* first, Float* second) {
    *first = vzip1q_f32(even, odd);
    *second = vzip2q_f32(even, odd);
  }

  template <class T, class Register>
  static FUSED_ACTS_INLINE Register read(const T* p, int64_t n, Register) {
    return read_through_buffer<Register>(p, n);
  }
  template <class T, class Register>
  static FUSED_ACTS_INLINE void write(T* p, int64_t n, Register x) {
    write_through_buffer(p, n, x);
  }

 private:
  // To bfloat16 in the upper halves of lanes; what the lower ones hold is of no use.
  static FUSED_ACTS_INLINE uint32x4_t rounded(Float x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vbslq_u32(vceqq_f32(x, x), sum, vorrq_u32(bits, vdupq_n_u32(0x400000)));
  }
};

}  // namespace
}  // namespace fused_acts
