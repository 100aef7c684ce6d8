// The operations that elementary.h is made of, for float and double on host and device.
//
// What computes on several floats at once (cpu/simd_avx512.h, cuda/f32x2.cuh) overloads them for
// its type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FUSED_ACTS_INLINE __host__ __device__ __forceinline__
#else
#define FUSED_ACTS_INLINE inline __attribute__((always_inline, nothrow))
#endif

namespace fused_acts {

FUSED_ACTS_INLINE float select(bool condition, float a, float b) { return condition ? a : b; }
FUSED_ACTS_INLINE double select(bool condition, double a, double b) {
#ifdef __CUDA_ARCH__
  return condition ? a : b;
#else
  // a branch that goes either way costs more than both
  uint64_t bits[2];
  std::memcpy(&bits[0], &a, sizeof a);
  std::memcpy(&bits[1], &b, sizeof b);
  const uint64_t mask = -static_cast<uint64_t>(condition);
  const uint64_t chosen = (bits[0] & mask) | (bits[1] & ~mask);
  std::memcpy(&a, &chosen, sizeof a);
  return a;
#endif
}

// a*b + c, rounded once. Not left to the compiler: a sum of two products it would fuse in one way
// in a vector loop and in the other in what remains of it, and an element's bits must not depend on
// the loop it fell to. Device code is compiled to fuse nothing else.
FUSED_ACTS_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FUSED_ACTS_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

FUSED_ACTS_INLINE float abs(float x) { return __builtin_fabsf(x); }
FUSED_ACTS_INLINE double abs(double x) { return __builtin_fabs(x); }

// min(x, bound); the bound when x is NaN.
FUSED_ACTS_INLINE float clamp_above(float x, float bound) {
#ifdef __CUDA_ARCH__
  return fminf(x, bound);
#else
  return x < bound ? x : bound;
#endif
}
FUSED_ACTS_INLINE double clamp_above(double x, float bound) { return x < bound ? x : bound; }

// min(x, bound); NaN stays.
FUSED_ACTS_INLINE float at_most(float x, float bound) {
#ifdef __CUDA_ARCH__
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return x > bound ? bound : x;
#endif
}
FUSED_ACTS_INLINE double at_most(double x, double bound) { return x > bound ? bound : x; }

// min(a*b + c, 1), for what is not negative; on a device for no more than the fma.
FUSED_ACTS_INLINE float saturated_fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __saturatef(__fmaf_rn(a, b, c));
#else
  return clamp_above(fma(a, b, c), 1.0f);
#endif
}
FUSED_ACTS_INLINE double saturated_fma(double a, double b, double c) {
  return clamp_above(fma(a, b, c), 1.0f);
}

// max(x, bound); NaN stays.
FUSED_ACTS_INLINE float clamp_below(float x, float bound) {
#ifdef __CUDA_ARCH__
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(bound));
  return x;
#else
  return x < bound ? bound : x;
#endif
}
FUSED_ACTS_INLINE double clamp_below(double x, float bound) { return x < bound ? bound : x; }
FUSED_ACTS_INLINE double clamp_below(double x, double bound) { return x < bound ? bound : x; }

// x between low and high; NaN stays.
FUSED_ACTS_INLINE float clamp(float x, float low, float high) {
  return at_most(clamp_below(x, low), high);
}
FUSED_ACTS_INLINE double clamp(double x, double low, double high) {
  return x < low ? low : at_most(x, high);
}

// x between -1e30 and 1e30, so that a product with 0 is 0; NaN stays.
FUSED_ACTS_INLINE float clamp_finite(float x) { return clamp(x, -1e30f, 1e30f); }
FUSED_ACTS_INLINE double clamp_finite(double x) { return x < -1e30 ? -1e30 : x > 1e30 ? 1e30 : x; }

// |magnitude| with the sign of x.
FUSED_ACTS_INLINE float copy_sign(float magnitude, float x) {
  return __builtin_copysignf(magnitude, x);
}
FUSED_ACTS_INLINE double copy_sign(double magnitude, double x) {
  return __builtin_copysign(magnitude, x);
}

// x where it is positive, `zero` (0 or -0) where it is negative; NaN stays.
FUSED_ACTS_INLINE float positive_part(float x, float zero = 0.0f) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(zero));
  return y;
#else
  return x < 0 ? zero : x;
#endif
}
FUSED_ACTS_INLINE double positive_part(double x, float zero = 0.0f) { return x < 0 ? zero : x; }

// Whether x is above 0, or NaN.
FUSED_ACTS_INLINE bool positive_or_nan(float x) { return !(x <= 0); }
FUSED_ACTS_INLINE bool positive_or_nan(double x) { return !(x <= 0); }

// 1/x: exactly rounded on the host, within 1 ulp on the device, where a subnormal x or result is 0.
FUSED_ACTS_INLINE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

FUSED_ACTS_INLINE double reciprocal(double x) { return 1.0 / x; }

// The same where x is finite, which may take less.
template <class Real>
FUSED_ACTS_INLINE Real reciprocal_of_finite(Real x) {
  return reciprocal(x);
}

// The same to 14 bits, where that takes less.
template <class Real>
FUSED_ACTS_INLINE Real coarse_reciprocal(Real x) {
  return reciprocal(x);
}

// a/b for finite b, exactly rounded on the host.
FUSED_ACTS_INLINE float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return a * reciprocal(b);
#else
  return a / b;
#endif
}
FUSED_ACTS_INLINE double quotient(double a, double b) { return a / b; }

// a/b and 1/x, also where the divisor or the result is subnormal, infinite or next to that; on the
// device within 2 ulp.
FUSED_ACTS_INLINE float quotient_of_any(float a, float b) {
#ifdef __CUDA_ARCH__
  float y;
  asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#else
  return a / b;
#endif
}
FUSED_ACTS_INLINE double quotient_of_any(double a, double b) { return a / b; }
FUSED_ACTS_INLINE float reciprocal_of_any(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}
FUSED_ACTS_INLINE double reciprocal_of_any(double x) { return 1.0 / x; }

FUSED_ACTS_INLINE float sqrt(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_sqrtf(x);
#endif
}
FUSED_ACTS_INLINE double sqrt(double x) { return ::sqrt(x); }

// 1/sqrt(x)
FUSED_ACTS_INLINE float rsqrt(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / __builtin_sqrtf(x);
#endif
}
FUSED_ACTS_INLINE double rsqrt(double x) { return 1.0 / ::sqrt(x); }

// x = mantissa * 2^exponent with sqrt(1/2) <= mantissa < sqrt(2), for normal x > 0.
template <class Real>
struct Split {
  Real mantissa, exponent;
};
FUSED_ACTS_INLINE Split<float> split(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  bits -= static_cast<uint32_t>(exponent) << 23;
  std::memcpy(&x, &bits, sizeof x);
  return {x, static_cast<float>(exponent)};
}

// c[0] + c[1]*x + c[2]*x^2 + ...
template <class Real>
FUSED_ACTS_INLINE Real polynomial(Real x, float last) {
  return Real(last);
}
template <class Real, class... Rest>
FUSED_ACTS_INLINE Real polynomial(Real x, float first, Rest... rest) {
  return fma(polynomial(x, rest...), x, Real(first));
}

#ifndef __CUDA_ARCH__
// 2^n for integral n <= 128, as a float holds it in its exponent: 0 below n = -126 and for NaN,
// +inf for n = 128.
FUSED_ACTS_INLINE float power_of_two(float n) {
  const int32_t bits = static_cast<int32_t>((n > -127.0f ? n : -127.0f) + 127.0f) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// p * 2^n for integral n <= 0, subnormal results included.
template <class Real>
FUSED_ACTS_INLINE Real scale_down_in_two_steps(Real p, Real n) {
  const Real first = clamp_below(n, -125.0f);
  return p * power_of_two(first) * power_of_two(n - first);
}
FUSED_ACTS_INLINE float scale_down(float p, float n) { return scale_down_in_two_steps(p, n); }

// p * 2^n for integral n <= 128 and p below 2, subnormal results and infinity included.
template <class Real>
FUSED_ACTS_INLINE Real scale_in_two_steps(Real p, Real n) {
  const Real first = clamp(n, -125.0f, 126.0f);
  return p * power_of_two(first) * power_of_two(n - first);
}
FUSED_ACTS_INLINE float scale(float p, float n) { return scale_in_two_steps(p, n); }

// p * 2^n for integral n <= 0, 0 below n = -126.
FUSED_ACTS_INLINE float scale_down_or_flush(float p, float n) { return p * power_of_two(n); }

// The nearest integer of a*b, |a*b| < 2^22.
template <class Real>
FUSED_ACTS_INLINE Real rounded_product_by_shift(Real a, Real b) {
  const Real shift = Real(12582912.0f);  // 1.5 * 2^23: adding it drops the fraction bits
  return fma(a, b, shift) - shift;
}
FUSED_ACTS_INLINE float rounded_product(float a, float b) { return rounded_product_by_shift(a, b); }

template <class Real>
FUSED_ACTS_INLINE Real exp2_by_bits(Real t) {
  t = clamp(t, -127.0f, 128.0f);
  const Real n = rounded_product(t, Real(1.0f));
  return power_of_two(n) *
         polynomial(t - n, 1.0f, 0.69312419f, 0.24024099f, 0.05590642f, 0.00958285f);
}
#endif

// 2^t to about 3e-6; 0 below t = -127, +inf from t = 128.
FUSED_ACTS_INLINE float exp2_fast(float t) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(t));
  return y;
#else
  return exp2_by_bits(t);
#endif
}

}  // namespace fused_acts
