// Elementary functions per arithmetic type, for host and device. Torch-free.
//
// An activation is written against a "math" M, which names its arithmetic type M::Real and supplies
// the few transcendental building blocks below. There is one math per storage precision:
//   Math16<Real>  float16 and bfloat16 storage: float arithmetic, error below 2e-5
//   Math32<Real>  float32 storage: a few ulp everywhere, the far tails included
//   Math64        float64 storage: libm
// Real is float, or several floats that go through the arithmetic together.
// Each supplies
//   Exponent sigmoid_exponent(x, c)        the argument c*x of a sigmoid
//   Exponent sigmoid_exponent(x, a, b)     the argument a*x + b*x^3
//   Exponent scaled_exponent(x, c)         the argument c*x, for a c known only when it runs
//   Real     sigmoid(exponent)
//   SigmoidProduct times_sigmoid(x, exponent)
//   Exponential    exponential(z)          for z >= 0
//   Real           quotient(a, b)          for b from 1 to 2
//   Real           log1p(x)                for 0 <= x <= 1
//   Real           mish_factor(u)          (1 + u) / (1 + u^2) for 0 <= u <= 1
//   NormalTail     normal_tail(x), coarse_normal_tail(x): the latter serves a value, no derivative
#pragma once

#include "primitives.h"

namespace fused_acts {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kSqrt1_2 = 0.7071067811865476;
constexpr double kRsqrt2Pi = 0.3989422804014327;

template <class Real>
struct SigmoidProduct {
  Real product, sigmoid;  // x*sigmoid is a normal number also where the sigmoid is not
};

template <class Real>
struct Exponential {
  Real exp, expm1;  // e^-z, and e^-z - 1 without cancellation
};

template <class Real>
struct NormalTail {         // of a standard normal Z
  Real factor_a, factor_b;  // whose product is |x|*P(Z > |x|)
  Real tail, density;       // P(Z > |x|), and the density of Z at x
};

// ---- float16 and bfloat16 storage ----

template <class RealType>
struct Math16 {
  using Real = RealType;
  using Exponent = Real;  // -log2(e) * argument + log2(kScale)

  // Functions that underflow are formed with a factor kScale^-1, since exponential and reciprocal
  // flush subnormal results to 0. Multiplied by kScale they may become subnormal, but
  // x*sigmoid(x)*up may still be a normal bfloat16, and where it is they have the bits for it.
  static constexpr float kScale = 1.0f / 65536;
  static constexpr float kLog2Scale = -16.0f;

  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x, double c) {
    return fma(x, Real(static_cast<float>(-c * kLog2E)), Real(kLog2Scale));
  }
  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x, double a, double b) {
    const Real slope =
        fma(x * x, Real(static_cast<float>(-b * kLog2E)), Real(static_cast<float>(-a * kLog2E)));
    return fma(x, slope, Real(kLog2Scale));
  }
  static FUSED_ACTS_INLINE Exponent scaled_exponent(Real x, Real c) {
    return fma(x, c * Real(static_cast<float>(-kLog2E)), Real(kLog2Scale));
  }
  static FUSED_ACTS_INLINE Exponential<Real> exponential(Real z) {
    const Real exp = exp2_fast(z * Real(static_cast<float>(-kLog2E)));
    const Real near = z * polynomial(z, -1.0f, 0.5f, -1.0f / 6, 1.0f / 24, -1.0f / 120);
    return {exp, select(z > Real(0.25f), exp - Real(1.0f), near)};
  }
  static FUSED_ACTS_INLINE Real quotient(Real a, Real b) { return a * reciprocal(b); }
  static FUSED_ACTS_INLINE Real log1p(Real x) {
    const Real s = x * reciprocal(x + Real(2.0f));
    return s * polynomial(s * s, 2.0f, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9);
  }
  // relative error 1.2e-5; a division more would be more than memory leaves time for
  static FUSED_ACTS_INLINE Real mish_factor(Real u) {
    return polynomial(u, 1.0000118f, 0.998503089f, -0.969264865f, -1.2341125f, 1.82478595f,
                      -0.336369276f, -0.511170328f, 0.227626607f);
  }
  static FUSED_ACTS_INLINE Real sigmoid(Exponent t) {
    return reciprocal(exp2_fast(t) + Real(kScale)) * Real(kScale);
  }
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent t) {
    const Real s = sigmoid(t);
    return {x * s, s};
  }
  // The ratio exp(a^2/2) * P(Z > a) is a polynomial in 1/(q + a), over [0, 14.5].
  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail(Real x) {
    // relative error 2e-6
    return normal_tail(x, 3.33333333f, -7.97840396e-05f, 0.404248737f, 1.18561118f, 6.10233574f,
                       -6.00521033f, 99.0004272f, -116.039344f);
  }
  static FUSED_ACTS_INLINE NormalTail<Real> coarse_normal_tail(Real x) {
    // relative error 1.4e-5
    return normal_tail(x, 2.77777778f, 0.000182289127f, 0.38955535f, 1.2974342f, 0.778301303f,
                       15.0735112f, -16.2168902f);
  }

 private:
  template <class... Coefficients>
  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail(Real x, float q, Coefficients... c) {
    const Real a =
        clamp_above(abs(x), 15.0f);  // the tail is 0 from there, and inf*0 must not arise
    const Real scaled_gaussian =
        exp2_fast(fma(a * a, Real(static_cast<float>(-0.5 * kLog2E)), Real(-kLog2Scale)));
    const Real t = reciprocal(a + Real(q));
    const Real tail = polynomial(t, kScale * c...) * scaled_gaussian;
    return {a, tail, tail, scaled_gaussian * Real(kScale * static_cast<float>(kRsqrt2Pi))};
  }
};

// ---- float32 storage ----

// A sum of two floats, the second far below the first: an exponent rounded to one costs up to 100
// ulp.
template <class Real>
struct Sum {
  Real high, low;
};

// -z = k*log(2) - rest with |rest| < 0.35
template <class Real>
struct Reduced {
  Real rest, k;
};

// e^-z = power * 2^k with power near 1
template <class Real>
struct NegativeExp {
  Real power, k;
};

template <class RealType>
struct Math32 {
  using Real = RealType;
  using Exponent = Sum<Real>;  // the argument

  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x, double c) {
    return c == 1.0 ? Exponent{x, Real(kNothing)}
                    : multiply({clamp(x, -kFar, kFar), Real(kNothing)}, c);
  }
  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x, double a, double b) {
    x = clamp(x, -kFar, kFar);
    const Exponent cubic = multiply(square(x), b);
    const Real linear = Real(static_cast<float>(a));
    const Real slope = linear + cubic.high;  // the rounding error of this sum goes to slope_low
    const Real part = slope - linear;
    const Real error = (linear - (slope - part)) + (cubic.high - part);
    const Real slope_low =
        error + (cubic.low + Real(static_cast<float>(a - static_cast<float>(a))));
    const Real high = x * slope;
    return {high, fma(x, slope_low, fma(x, slope, -high))};
  }
  static FUSED_ACTS_INLINE Exponent scaled_exponent(Real x, Real c) {
    const Real high = x * c;
    return {high, select(Real(1e4f) > abs(high), fma(x, c, -high), Real(0.0f))};
  }
  // 2*atanh(s) = 2*s + s*rest with s = x / (2 + x), by its series; 2*s is x - s*x
  static FUSED_ACTS_INLINE Real log1p(Real x) {
    const Real s = x * reciprocal_of_finite(x + Real(2.0f)), s2 = s * s;
    const Real rest = s2 * polynomial(s2, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11,
                                      2.0f / 13, 2.0f / 15);
    return fma(s, rest - x, x);
  }
  static FUSED_ACTS_INLINE Real mish_factor(Real u) {
    return (Real(1.0f) + u) * reciprocal_of_finite(fma(u, u, Real(1.0f)));
  }
  static FUSED_ACTS_INLINE Real quotient(Real a, Real b) {
    const Real inverse = reciprocal_of_finite(b), first = a * inverse;
    return fma(fma(-first, b, a), inverse, first);
  }
  static FUSED_ACTS_INLINE Real sigmoid(Exponent z) { return times_sigmoid(Real(1.0f), z).product; }

#ifdef __CUDA_ARCH__
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent z) {
    // e = e^-|z|, raised by 2^32 in the far negative tail, where the product is normal but e is not
    const Exponent t = multiply({clamp(z.high, -kFar, kFar), z.low}, kLog2E);
    const bool negative = t.high < 0, far = t.high < -80;
    const Real sign = negative ? 1.0f : -1.0f;
    const Real raised = exp2(sign * t.high + (far ? 32.0f : 0.0f), sign * t.low);
    const Real scale = far ? 0x1p-32f : 1.0f;
    const Real weight = reciprocal_of_finite(1.0f + raised * scale);
    const Real factor = negative ? raised : 1.0f;
    return {((x * weight) * factor) * scale, (weight * factor) * scale};
  }
  // e^-z, 0 <= z < 170, without the factor *scale, a power of two that may be subnormal
  static FUSED_ACTS_INLINE Real negative_exp(Exponent z, Real* scale) {
    const Exponent t = multiply(z, -kLog2E);
    const bool far = t.high < -80;
    *scale = far ? 0x1p-64f : 1.0f;
    return exp2(t.high + (far ? 64.0f : 0.0f), t.low);
  }
  static FUSED_ACTS_INLINE Exponential<Real> exponential(Real z) {
    Real scale;
    const Real power = negative_exp({at_most(z, kFar), Real(0.0f)}, &scale);
    const Real near = z * polynomial(z, -1.0f, 0.5f, -1.0f / 6, 1.0f / 24, -1.0f / 120, 1.0f / 720,
                                     -1.0f / 5040, 1.0f / 40320, -1.0f / 362880);
    return {power * scale, select(z > Real(0.7f), power * scale - Real(1.0f), near)};
  }
#else
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent z) {
    // sigmoid = 2^a / (2^a + power*2^b) with a = min(-k, 0), b = min(k, 0): no power of two
    // overflows, and 2^a is multiplied to x first, as the product may be normal where the sigmoid
    // is not
    const NegativeExp<Real> e = negative_exp({clamp(z.high, -kFar, kFar), z.low});
    const Real b = clamp_above(e.k, 0.0f), a = b - e.k;
    const Real weight =
        reciprocal_of_finite(scale_down_or_flush(Real(1.0f), a) + scale_down_or_flush(e.power, b));
    x = clamp_below(x, -1e30f);  // whose product is 0 already, where -inf would not become it
    return {scale_down(x, a) * weight, scale_down(weight, a)};
  }
  // e^-z, z >= 0, without the factor *scale, a power of two that may be subnormal
  static FUSED_ACTS_INLINE Real negative_exp(Exponent z, Real* scale) {
    const NegativeExp<Real> e = negative_exp(z);
    *scale = scale_down(Real(1.0f), e.k);
    return e.power;
  }
  // 2^k * (1 + e), of which e keeps its bits near 0
  static FUSED_ACTS_INLINE Exponential<Real> exponential(Real z) {
    const Reduced<Real> r = reduce({at_most(z, kFar), Real(kNothing)});
    const Real e = fma(r.rest * r.rest,
                       polynomial(r.rest, 0.5f, -1.0f / 6, 0.041666355f, -0.0083332732f,
                                  0.0013941006f, -0.00019914168f),
                       -r.rest);
    const Real scale = scale_down(Real(1.0f), r.k);
    return {fma(scale, e, scale), fma(scale, e, scale - Real(1.0f))};
  }
#endif

  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail(Real x) {
    const Real a = clamp_above(abs(x), 15.0f);
    const Real half = a * Real(0.5f), high = a * half;
    Real scale;
    const Real gaussian = negative_exp({high, fma(a, half, -high)}, &scale);
    // as in Math16, relative error 1.2e-8
    const Real ratio =
        polynomial(reciprocal_of_finite(fma(a, Real(0.33f), Real(1.0f))), 6.339493825254375e-06f,
                   0.13147859254486516f, 0.13367996911260718f, 0.1037215195075865f,
                   0.145838568214747f, -0.1065781681409042f, 0.29124743102272793f,
                   -0.3219487489626301f, 0.14838386053790395f, -0.025829357223232416f);
    const Real tail = ratio * gaussian;
    const Real density = gaussian * Real(static_cast<float>(kRsqrt2Pi));
    return {a * tail, scale, tail * scale, density * scale};
  }
  static FUSED_ACTS_INLINE NormalTail<Real> coarse_normal_tail(Real x) { return normal_tail(x); }

 private:
  static constexpr float kFar =
      200.0f;  // a sigmoid is 0 or 1 from there, and no product may overflow
  static constexpr float kNothing = -0.0f;  // adding it changes nothing, not even a -0

  static FUSED_ACTS_INLINE Exponent square(Real x) {
    const Real high = x * x;
    return {high, fma(x, x, -high)};
  }
  static FUSED_ACTS_INLINE Exponent multiply(Exponent x, double c) {
    const float c_high = static_cast<float>(c);
    const Real high = x.high * Real(c_high);
    const Real error = fma(x.high, Real(c_high), -high);
    return {high,
            fma(x.high, Real(static_cast<float>(c - c_high)), fma(x.low, Real(c_high), error))};
  }

#ifdef __CUDA_ARCH__
  static FUSED_ACTS_INLINE Real exp2(Real high, Real low) {
    const Real e = exp2_fast(high);
    return fma(e, low * Real(0.6931471806f), e);
  }
#else
  static FUSED_ACTS_INLINE Reduced<Real> reduce(Exponent z) {
    const Real k = rounded_product(z.high, Real(static_cast<float>(-kLog2E)));
    // log(2) in two parts, the first so short that k times it is exact
    return {fma(k, Real(-2.12194440e-4f), fma(k, Real(0.693359375f), z.high)) + z.low, k};
  }
  static FUSED_ACTS_INLINE NegativeExp<Real> negative_exp(Exponent z) {
    const auto [reduced, k] = reduce(z);
    return {polynomial(reduced, 1.0f, -1.0f, 0.49999994f, -0.16666432f, 0.041668f, -0.008374161f,
                       0.0013843647f),
            k};
  }
#endif
};

// ---- float64 storage ----

struct Math64 {
  using Real = double;
  using Exponent = double;  // the argument

  static FUSED_ACTS_INLINE double sigmoid_exponent(double x, double c) { return c * x; }
  static FUSED_ACTS_INLINE double sigmoid_exponent(double x, double a, double b) {
    return x * fma(x * x, b, a);
  }
  static FUSED_ACTS_INLINE double scaled_exponent(double x, double c) { return c * x; }
  static FUSED_ACTS_INLINE Exponential<double> exponential(double z) {
    return {::exp(-z), ::expm1(-z)};
  }
  static FUSED_ACTS_INLINE double quotient(double a, double b) { return a / b; }
  static FUSED_ACTS_INLINE double log1p(double x) { return ::log1p(x); }
  static FUSED_ACTS_INLINE double mish_factor(double u) { return (1.0 + u) / (1.0 + u * u); }
  static FUSED_ACTS_INLINE double sigmoid(double t) { return 1.0 / (1.0 + ::exp(-t)); }
  static FUSED_ACTS_INLINE SigmoidProduct<double> times_sigmoid(double x, double t) {
    const double s = sigmoid(t);
    return {x * s, s};
  }
  static FUSED_ACTS_INLINE NormalTail<double> normal_tail(double x) {
    const double a = clamp_above(abs(x), 40.0f);
    const double tail = 0.5 * ::erfc(a * kSqrt1_2);
    return {a, tail, tail, ::exp(-0.5 * a * a) * kRsqrt2Pi};
  }
  static FUSED_ACTS_INLINE NormalTail<double> coarse_normal_tail(double x) {
    return normal_tail(x);
  }
};

}  // namespace fused_acts
