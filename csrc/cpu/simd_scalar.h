// The registers of any processor, a number each, see vec.h and access.h.
#pragma once

#include "cpu/access.h"

namespace fused_acts {
namespace {

template <class F>
struct Scalar {
  using Lane = F;
  using Float = F;
  using Half = uint16_t;
  struct Words {
    uint16_t even, odd;
  };
  static constexpr int kLanes = 1, kRegisters = 1;
  static constexpr bool kStreams = false;
  template <int K>
  using Real = F;

  static FUSED_ACTS_INLINE F widen(Half x, BFloat16) {
    return as<float>(static_cast<uint32_t>(x) << 16);
  }
  static FUSED_ACTS_INLINE F widen(Half x, Float16) {
    const uint32_t magnitude = (x & 0x7fffu) << 13;
    // the exponents differ by 112, which a multiplication makes up for subnormal numbers too
    const uint32_t finite = as<uint32_t>(as<float>(magnitude) * 0x1p112f);
    const uint32_t special = magnitude | 0x7f800000u;
    return as<float>((magnitude >= 0x0f800000u ? special : finite) | (x & 0x8000u) << 16);
  }
  static FUSED_ACTS_INLINE Half narrow(F x, BFloat16) {
    const uint32_t bits = as<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const uint32_t nan = bits >> 16 | 0x40u;
    return static_cast<Half>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
  static FUSED_ACTS_INLINE Half narrow(F x, Float16) {
    const uint32_t magnitude = as<uint32_t>(x) & 0x7fffffffu;
    const uint32_t sign = as<uint32_t>(x) >> 16 & 0x8000u;
    // the spacing of subnormal halves is that of floats from 0.5 to 1
    const uint32_t subnormal = as<uint32_t>(as<float>(magnitude) + 0.5f) - as<uint32_t>(0.5f);
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return static_cast<Half>(sign | (magnitude >= 0x47800000u ? special : finite));
  }

  template <class T>
  static FUSED_ACTS_INLINE F even(Words words, T type) {
    return widen(words.even, type);
  }
  template <class T>
  static FUSED_ACTS_INLINE F odd(Words words, T type) {
    return widen(words.odd, type);
  }
  template <class T>
  static FUSED_ACTS_INLINE Words alternate(F even, F odd, T type) {
    return {narrow(even, type), narrow(odd, type)};
  }
  static FUSED_ACTS_INLINE void split(F first, F second, F* even, F* odd) {
    *even = first;
    *odd = second;
  }
  static FUSED_ACTS_INLINE void join(F even, F odd, F* first, F* second) {
    *first = even;
    *second = odd;
  }

 private:
  template <class To, class From>
  static FUSED_ACTS_INLINE To as(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
  }
};

}  // namespace
}  // namespace fused_acts
