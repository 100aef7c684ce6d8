// Eight and four bits: what values and scales become, by the bits. Host and device; vectors and
// hardware conversions give the same.
#pragma once

#include <cstdint>

#include "math/primitives.h"

namespace fused_acts {

enum class Format : int {
  kFp8Tensor,    // e4m3, the scale given
  kFp8Row,       // e4m3, a scale for each row
  kInt8Row,      // int8, a scale for each row
  kFp8Block128,  // e4m3, a scale for each 128 columns
  kMxfp8,        // e4m3, a scale of 8 exponent bits for each 32 columns
  kNvfp4,        // e2m1, a scale in e4m3 for each 16 columns, and one of the tensor given
  kCount
};

constexpr float kLargestE4m3 = 448.0f, kLargestE2m1 = 6.0f, kLargestInt8 = 127.0f;

// The columns that share a scale, or 0: those of a row.
constexpr int64_t group_columns(Format format) {
  return format == Format::kFp8Block128 ? 128
         : format == Format::kMxfp8     ? 32
         : format == Format::kNvfp4     ? 16
                                        : 0;
}
FUSED_ACTS_INLINE constexpr bool takes_scale(Format format) {
  return format == Format::kFp8Tensor || format == Format::kNvfp4;
}

FUSED_ACTS_INLINE uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}
FUSED_ACTS_INLINE float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

// Magnitudes as integers have the order of their values, and NaN above all.
FUSED_ACTS_INLINE uint32_t magnitude_of(float x) { return bits_of(x) & kMagnitude; }

// To even where two are as near; what is too large is the largest, NaN is NaN.
FUSED_ACTS_INLINE uint32_t to_e4m3(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & kMagnitude;
  const uint32_t limited = magnitude < 0x43e00000 ? magnitude : 0x43e00000;  // 448
  const uint32_t rounded = ((limited + 0x7ffff + (limited >> 20 & 1)) >> 20) - (120 << 3);
  // below 2^-6 in steps of 2^-9: those that floats of 2^14 have
  const uint32_t small = bits_of(float_of(limited) + 16384.0f) & 0xf;
  const uint32_t code = limited < 0x3c800000 ? small : rounded;
  return magnitude > kInfinity ? 0x7f : code | (bits >> 24 & 0x80);
}
FUSED_ACTS_INLINE float from_e4m3(uint32_t x) {
  const uint32_t sign = x << 24 & 0x80000000, magnitude = x & 0x7f;
  const uint32_t small = bits_of(static_cast<int32_t>(magnitude) * 0x1p-9f);
  const uint32_t large = (magnitude << 20) + (uint32_t{120} << 23);
  const uint32_t number = magnitude < 8 ? small : large;
  return float_of(sign | (magnitude == 0x7f ? 0x7fc00000 : number));
}

// 0, 0.5, 1, 1.5, 2, 3, 4, 6; NaN is 6, as the instruction has it.
FUSED_ACTS_INLINE uint8_t to_e2m1(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & kMagnitude;
  const uint32_t limited = magnitude < 0x40c00000 ? magnitude : 0x40c00000;  // 6
  const uint32_t rounded = ((limited + 0x1fffff + (limited >> 22 & 1)) >> 22) - (126 << 1);
  // below 1 in steps of 0.5: those that floats of 2^22 have
  const uint32_t small = bits_of(float_of(limited) + 4194304.0f) & 3;
  const uint32_t code = limited < 0x3f800000 ? small : rounded;
  return magnitude > kInfinity ? 7 : code | (bits >> 28 & 8);
}

// To even where two are as near, -127 to 127; NaN is 0.
FUSED_ACTS_INLINE int8_t to_int8(float x) {
  const float limited = clamp(x, -kLargestInt8, kLargestInt8);
  const uint32_t bits = bits_of(limited + 0x1.8p23f);
  return static_cast<int8_t>(x == x ? bits : 0);
}

// The power of two that is next to x above, or is x; infinity and NaN stay. x is not negative.
FUSED_ACTS_INLINE uint32_t power_above_bits(uint32_t bits) { return (bits + 0x7fffff) & kInfinity; }
FUSED_ACTS_INLINE float power_above(float x) {
  const uint32_t bits = bits_of(x);
  // the bits of a subnormal number, as a number
  const float count = static_cast<float>(static_cast<int32_t>(bits & 0x7fffff));
  const float counted = float_of(power_above_bits(bits_of(count)));
  const auto subnormal = static_cast<uint32_t>(static_cast<int32_t>(counted));
  return float_of(bits >= kInfinity ? bits : bits >= 0x800000 ? power_above_bits(bits) : subnormal);
}

// The exponent alone, with 127 more, of the power next above: 0 is 2^-127, and there is nothing
// below; 254 is that of infinity too; 255 is NaN. x is not negative.
FUSED_ACTS_INLINE uint32_t to_e8m0(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t limited = bits < 0x7f000000 ? bits : 0x7f000000;
  const uint32_t code = bits < 0x800000 ? bits + 0x3fffff : limited + 0x7fffff;
  return bits > kInfinity ? 0xff : code >> 23;
}
FUSED_ACTS_INLINE float from_e8m0(uint32_t x) {
  const uint32_t number = x ? x << 23 : 0x400000;
  return float_of(x == 0xff ? 0x7fc00000 : number);
}

// What a group is scaled by: value ~ q * divisor / factor, with a factor of nvfp4 alone.
struct GroupScale {
  float divisor;
  uint32_t bits;  // of the scale as it is stored: a float, or 8 bits
};

// Of a group by its largest magnitude, which may be NaN. `packed`: as 8 bits of e8m0, also of
// formats that have a float; that is one of a power of two.
FUSED_ACTS_INLINE GroupScale group_scale(Format format, float largest, float floor, bool power,
                                         bool packed, float tensor_scale) {
  const float a = largest < floor ? floor : largest;
  if (format == Format::kNvfp4) {
    const uint32_t scale = to_e4m3(tensor_scale * a / kLargestE2m1);
    return {from_e4m3(scale), scale};
  }
  float s = a / (format == Format::kInt8Row ? kLargestInt8 : kLargestE4m3);
  if (format != Format::kMxfp8) {
    if (s == 0) s = 1;
    if (power) s = power_above(s);
    if (!packed) return {s, bits_of(s)};
  }
  const uint32_t scale = to_e8m0(s);
  return {from_e8m0(scale), scale};
}

// What a value is before it becomes that of its format.
FUSED_ACTS_INLINE float scaled(Format format, float y, GroupScale scale, float tensor_scale) {
  if (format != Format::kNvfp4) return y / scale.divisor;
  return scale.divisor == 0 ? y * 0.0f : y * tensor_scale / scale.divisor;
}

}  // namespace fused_acts
