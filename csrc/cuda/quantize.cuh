// The arithmetic of math/quantize.h on the columns of a thread, with the same bits.
#pragma once

#include "cuda/vector.cuh"
#include "math/quantize.h"

namespace fused_acts::cuda {

// The larger magnitude, NaN above all.
FUSED_ACTS_DEVICE float larger_magnitude(float largest, float x) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(largest) : "f"(abs(x)));
  return largest;
}

// That of the so many lanes around, a power of two. All threads of the warp are here.
FUSED_ACTS_DEVICE float largest_of_lanes(float largest, int lanes) {
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    if (apart >= lanes) break;
    largest = larger_magnitude(largest, __shfl_xor_sync(~0u, largest, apart));
  }
  return largest;
}

// What a thread divides all its columns by.
//
// A division is a multiplication by the reciprocal and a correction:
//
//   q = y * r,  q - (q * divisor - y) * r      with r = 1 / divisor, rounded
//
// Before it is rounded that is off by 3 parts of 2^48 at most, and all quotients that are as near
// to the middle of two floats can be listed: of none does it go to the wrong side. So it is the
// rounded quotient wherever r is a normal number and q, if it matters at all, no tiny one.
struct GroupDivisor {
  float divisor, reciprocal;
  float factor;  // of y before
  bool divides;  // where a product and its correction are not enough

  FUSED_ACTS_DEVICE GroupDivisor(Format format, GroupScale scale, float tensor_scale, float largest)
      : divisor(scale.divisor), factor(1.0f) {
    const bool zero = format == Format::kNvfp4 && divisor == 0;
    if (format == Format::kNvfp4) factor = zero ? 0.0f : tensor_scale;
    if (zero) divisor = 1.0f;
    reciprocal = 1.0f / divisor;
    divides = !(divisor >= 0x1p-90f && divisor < 0x1p118f);
    // by a scale that was given, quotients may be beyond the largest number
    if (takes_scale(format) && !(largest * factor <= divisor * 512.0f)) divides = true;
  }
  // Of a power of two, where a multiplication is as good.
  FUSED_ACTS_DEVICE explicit GroupDivisor(GroupScale scale)
      : divisor(scale.divisor),
        reciprocal(1.0f / divisor),
        factor(1.0f),
        divides(!(divisor >= 0x1p-127f && divisor <= 0x1p127f)) {}
};

template <int kColumns>
FUSED_ACTS_DEVICE void divide_columns(Format format, bool power, const GroupDivisor& by,
                                      float (&y)[kColumns]) {
  if (format == Format::kNvfp4) {
#pragma unroll
    for (int k = 0; k < kColumns; ++k) y[k] *= by.factor;
  }
  if (by.divides) {
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      y[k] /= by.divisor;
      if (format == Format::kInt8Row) y[k] = y[k] == y[k] ? clamp(y[k], -127.0f, 127.0f) : 0.0f;
    }
  } else if (power) {
#pragma unroll
    for (int k = 0; k < kColumns; ++k) y[k] *= by.reciprocal;
  } else {
    const F32x2 divisor(by.divisor), reciprocal(by.reciprocal);
#pragma unroll
    for (int k = 0; k < kColumns; k += 2) {
      const F32x2 minus_y(-y[k], -y[k + 1]);
      const F32x2 q = F32x2(y[k], y[k + 1]) * reciprocal;
      const F32x2 corrected = fma(-fma(q, divisor, minus_y), reciprocal, q);  // keeps -0
      y[k] = corrected.lo;
      y[k + 1] = corrected.hi;
    }
  }
}

FUSED_ACTS_DEVICE uint32_t to_e4m3_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return to_e4m3(low) | to_e4m3(high) << 8;
#endif
}

// The bits of 1.5 * 2^23 + i, which has i at the end.
constexpr float kIntegers = 0x1.8p23f;

// 0 to 7, behind more bits that are always the same: steps of 0.5, from 2 of 1 and from 4 of 2,
// each to even.
FUSED_ACTS_DEVICE uint32_t e2m1_magnitude(float magnitude) {
  const float halves = fma(magnitude, 2.0f, kIntegers), ones = magnitude + (kIntegers + 2.0f);
  const float twos = fma(magnitude, 0.5f, kIntegers + 4.0f);
  return bits_of(fminf(fminf(halves, ones), fminf(twos, kIntegers + 7.0f)));
}

// The columns in the bits of the format; of int8 no NaN.
template <int kColumns>
FUSED_ACTS_DEVICE void to_codes(Format format, const float (&q)[kColumns],
                                uint32_t (&words)[kColumns / 4]) {
  if (format == Format::kNvfp4) {
    constexpr int kInWord = kColumns < 8 ? kColumns : 8;
#pragma unroll
    for (int first = 0; first < kColumns; first += kInWord) {
      uint32_t code = 0, constant = 0;
#pragma unroll
      for (int k = first + kInWord - 1; k >= first; --k) {
        const uint32_t sign = bits_of(q[k]) >> 28 & 8;
        code = (code << 4) + (e2m1_magnitude(abs(q[k])) | sign);
        constant = (constant << 4) + 0x4b400000;
      }
      words[first / kInWord] = code - constant;
    }
  } else if (format == Format::kInt8Row) {
#pragma unroll
    for (int k = 0; k < kColumns; k += 4) {
      const auto code = [&](int i) { return bits_of(q[k + i] + kIntegers); };
      words[k / 4] = __byte_perm(__byte_perm(code(0), code(1), 0x0040),
                                 __byte_perm(code(2), code(3), 0x0040), 0x5410);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kColumns; k += 4)
      words[k / 4] = to_e4m3_pair(q[k], q[k + 1]) | to_e4m3_pair(q[k + 2], q[k + 3]) << 16;
  }
}

}  // namespace fused_acts::cuda
