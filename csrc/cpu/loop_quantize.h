// The loops of quantised results over the columns of a row, left to the compiler: integers, minima
// and sums, which are the same on every processor. Only for the files that compile them for an
// instruction set.
#pragma once

#include <limits>
#include <type_traits>

#include "cpu/loops.h"
#include "math/quantize.h"

namespace fused_acts::cpu {
namespace {

// A magnitude that does not exceed the largest number of a format, rounded to it: its code, from
// bit kLowest on. The format has 8 or 2 steps, 2^kFractionBits, from a power of two to the next,
// and below 2^kLeastExponent those that it has above.
template <int kFractionBits, int kLeastExponent, int kLowest>
FUSED_ACTS_INLINE uint32_t rounded_code(float magnitude) {
  constexpr uint32_t kLeast = uint32_t{127 + kLeastExponent} << 23;
  constexpr int kUp = kLowest + kFractionBits - 23;
  const uint32_t exponent = bits_of(magnitude) & kInfinity;
  const uint32_t power = exponent > kLeast ? exponent : kLeast;
  // a sum with 2^(23 - kFractionBits) times the power has the fraction in its last bits
  const float large = float_of(power + (uint32_t{23 - kFractionBits} << 23));
  return (bits_of(magnitude + large) << kLowest) + ((power - kLeast) << kUp);
}

// What a float becomes: whatever it is, or by its magnitude and sign where that is bounded.
struct ToE4m3 {
  static FUSED_ACTS_INLINE uint8_t any(float x) { return to_e4m3(x); }
  static FUSED_ACTS_INLINE uint8_t bounded(float magnitude, uint32_t sign) {
    return static_cast<uint8_t>((rounded_code<3, -6, 24>(magnitude) | sign) >> 24);
  }
};
struct ToInt8 {
  static FUSED_ACTS_INLINE uint8_t any(float x) { return static_cast<uint8_t>(to_int8(x)); }
  static FUSED_ACTS_INLINE uint8_t bounded(float magnitude, uint32_t sign) {
    return static_cast<uint8_t>(bits_of(float_of(bits_of(magnitude) | sign) + 0x1.8p23f));
  }
};
struct ToE2m1 {
  static FUSED_ACTS_INLINE uint8_t any(float x) { return to_e2m1(x); }
  static FUSED_ACTS_INLINE uint8_t bounded(float magnitude, uint32_t sign) {
    const float limited = magnitude < kLargestE2m1 ? magnitude : kLargestE2m1;
    return static_cast<uint8_t>((rounded_code<1, 0, 28>(limited) | sign) >> 28);
  }
};

constexpr int64_t kMostSpread = 32;  // longer groups have a loop each

// kFused: whether there is an instruction for a*b + c.
template <bool kFused>
struct QuantizeLoops {
  static void largest(const float* y, int64_t n, int64_t group, float* result) {
    int64_t i = 0;
    // short ones of known length
    if (group == 16)
      for (; i + 16 <= n; i += 16) *result++ = largest_of<16>(y + i, 16);
    if (group == 32)
      for (; i + 32 <= n; i += 32) *result++ = largest_of<32>(y + i, 32);
    for (; i < n; i += group) *result++ = largest_of<0>(y + i, n - i < group ? n - i : group);
  }

  // In a loop of its own for a format of short groups.
  static bool scale(const ScaleRun& run) {
    switch (run.format) {
      case Format::kNvfp4:
        return scale_all<Format::kNvfp4>(run);
      case Format::kMxfp8:
        return scale_all<Format::kMxfp8>(run);
      default:
        return scale_all<Format::kCount>(run);
    }
  }

  static void quantize(const QuantizeRun& run) {
    switch (run.format) {
      case Format::kInt8Row:
        return quantize_to<ToInt8>(run);
      case Format::kNvfp4:
        return quantize_to<ToE2m1>(run);
      default:
        return quantize_to<ToE4m3>(run);
    }
  }

  static void pack(const uint8_t* __restrict codes, int64_t n, uint8_t* __restrict q) {
#pragma omp simd
    for (int64_t i = 0; i < n / 2; ++i)
      q[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }

  static void from_e4m3(const uint8_t* __restrict q, int64_t n, float scale, float* __restrict y) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = fused_acts::from_e4m3(q[i]) * scale;
  }

 private:
  template <int64_t kKnown>
  static FUSED_ACTS_INLINE float largest_of(const float* y, int64_t n) {
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < (kKnown ? kKnown : n); ++i) {
      const uint32_t magnitude = magnitude_of(y[i]);
      most = magnitude > most ? magnitude : most;
    }
    return float_of(most);
  }

  // kCount is any format.
  template <Format kKnown>
  static FUSED_ACTS_INLINE bool scale_all(const ScaleRun& run) {
    ScaleRun r = run;
    const Format format = kKnown == Format::kCount ? r.format : kKnown;
    constexpr float kInfinite = std::numeric_limits<float>::infinity();
    const float zero = r.factor >= 0 ? 0.0f : -1.0f;  // what no magnitude is, by a negative factor
    uint32_t outside = !(r.factor >= 0);
#pragma omp simd reduction(| : outside)
    for (int64_t i = 0; i < r.n; ++i) {
      GroupScale stored =
          group_scale(format, r.largest[i], r.floor, r.power, r.packed, r.tensor_scale);
      r.bits[i] = stored.bits;
      const float scale = stored.divisor;
      const float product = r.largest[i] * r.factor;
      // what becomes 0 does so by any divisor
      const float less = abs(scale) < r.largest[i] ? abs(scale) : r.largest[i];
      const float other = less <= zero ? 1.0f : scale;
      const float divisor = product < kInfinite ? other : scale;
      outside |= product < kInfinite ? 0 : 1;
      outside |= divisor >= kLeastDivisor ? 0 : 1;
      outside |= divisor <= kMostDivisor ? 0 : 1;
      r.divisors[i] = divisor;
      r.reciprocals[i] = 1 / divisor;
    }
    return outside == 0;
  }

  // A number of each group, which are of 16 or 32, for its elements.
  static FUSED_ACTS_INLINE void spread(const float* __restrict numbers, int64_t n, int64_t group,
                                       float* __restrict result) {
    group == 16 ? spread<16>(numbers, n, result) : spread<32>(numbers, n, result);
  }
  template <int64_t kGroup>
  static FUSED_ACTS_INLINE void spread(const float* __restrict numbers, int64_t n,
                                       float* __restrict result) {
    for (int64_t i = 0; i < n; i += kGroup)
      for (int64_t k = 0; k < kGroup; ++k) result[i + k] = numbers[i / kGroup];
  }

  template <class To>
  static FUSED_ACTS_INLINE void quantize_to(const QuantizeRun& run) {
    const auto [format, bounded, n, group, factor, y, divisors, reciprocals, codes] = run;
    if (!kFused || !bounded) {
      for (int64_t i = 0, count; i < n; i += count) {
        count = n - i < group ? n - i : group;
        const bool vanishes = format == Format::kNvfp4 && divisors[i / group] == 0;
        divide<To>(y + i, count, vanishes ? 0 : factor, vanishes ? 1 : divisors[i / group],
                   codes + i);
      }
    } else if (group <= kMostSpread) {
      float each_divisor[kTile], each_reciprocal[kTile];
      spread(divisors, n, group, each_divisor);
      spread(reciprocals, n, group, each_reciprocal);
      round<To, 1>(y, n, factor, each_divisor, each_reciprocal, codes);
    } else {
      for (int64_t i = 0, count; i < n; i += count) {
        count = n - i < group ? n - i : group;
        round<To, 0>(y + i, count, factor, divisors + i / group, reciprocals + i / group,
                     codes + i);
      }
    }
  }

  template <class To>
  static FUSED_ACTS_INLINE void divide(const float* __restrict y, int64_t n, float factor,
                                       float divisor, uint8_t* __restrict codes) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) codes[i] = To::any(y[i] * factor / divisor);
  }

  // The same by multiplications. kStep: 1 if each element has a divisor, 0 if there is one.
  template <class To, int kStep>
  static FUSED_ACTS_INLINE void round(const float* __restrict y, int64_t n, float factor,
                                      const float* __restrict divisors,
                                      const float* __restrict reciprocals,
                                      uint8_t* __restrict codes) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float divisor = divisors[i * kStep], reciprocal = reciprocals[i * kStep];
      const uint32_t bits = bits_of(y[i] * factor);
      const float magnitude = float_of(bits & kMagnitude), product = magnitude * reciprocal;
      // the exact quotient: the remainder makes up for what the product is off
      const float exact = fma(fma(-product, divisor, magnitude), reciprocal, product);
      codes[i] = To::bounded(exact, bits & ~kMagnitude);
    }
  }
};

}  // namespace
}  // namespace fused_acts::cpu
