// Elementary functions per arithmetic type, for host and device.
//
// An activation is written against a "math" M, which names its arithmetic type M::Real and supplies
// the few transcendental building blocks below. There is one math per storage precision:
//   Math16<Real>  float16 and bfloat16 storage: float arithmetic, error below 2e-5
//   Math32<Real>  float32 storage: a few ulp everywhere, the far tails included
//   Math64        float64 storage: libm
// Real is float, or several floats that go through the arithmetic together.
// Each supplies
//   Exponent sigmoid_exponent(x)           the argument x of a sigmoid
//   Exponent sigmoid_exponent(x, a, b)     the argument a*x + b*x^3
//   Exponent scaled_exponent(x, c)         the argument c*x, for a c known only when it runs
//   Real     sigmoid(exponent)             so close that 1 - sigmoid is right too
//   Real     coarse_sigmoid(exponent)      serves a value, no derivative
//   SigmoidProduct times_sigmoid(x, exponent), swish(x)
//   Exponential    exponential(z)          for z >= 0
//   NegativeExp    negative_exp(z)         for z >= 0
//   Exponential    growth(x)               e^x and e^x - 1 of any x, to subnormals and infinity
//   Real           gaussian(x)             e^-x^2
//   TanhParts      tanh(x)
//   Real           log1p(x)                for 0 <= x <= 1
//   Real           divide_by_sum(a, b, c)  a / (b + c)
//   Real           divide(a, b)            a / b
//   NormalTail     normal_tail(x), coarse_normal_tail(x): the latter serves a value, no derivative
#pragma once

#include "math/elementary_f32.h"
#include "math/elementary_types.h"

namespace fused_acts {

// ---- float16 and bfloat16 storage ----

// kCoarse: for bfloat16, whose 8 bits leave room for an estimate of a reciprocal, good to 14, where
// an instruction has one.
template <class RealType, bool kCoarse>
struct MathOf16Bits {
  using Real = RealType;
  using Exponent = Real;  // -log2(e) * argument + log2(kScale)

  // Functions that underflow are formed with a factor kScale^-1, since exponential and reciprocal
  // flush subnormal results to 0. Multiplied by kScale they may become subnormal, but
  // x*sigmoid(x)*up may still be a normal bfloat16, and where it is they have the bits for it.
  static constexpr float kScale = 1.0f / 65536;
  static constexpr float kLog2Scale = -16.0f;

  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x) {
    return fma(x, Real(static_cast<float>(-kLog2E)), Real(kLog2Scale));
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
  static FUSED_ACTS_INLINE NegativeExp<Real> negative_exp(Real z) {
    return {exp2_fast(fma(z, Real(static_cast<float>(-kLog2E)), Real(-kLog2Scale))), Real(kScale)};
  }
  // the square of a root, which neither overflows nor is flushed before it is one
  static FUSED_ACTS_INLINE Exponential<Real> growth(Real x) {
    const Real root = exp2_fast(x * Real(static_cast<float>(0.5 * kLog2E))), exp = root * root;
    const Real near = x * polynomial(x, 1.0f, 0.5f, 1.0f / 6, 1.0f / 24, 1.0f / 120);
    return {exp, select(abs(x) > Real(0.25f), exp - Real(1.0f), near)};
  }
  static FUSED_ACTS_INLINE Real gaussian(Real x) {
    const Real root = exp2_fast((x * x) * Real(static_cast<float>(-0.5 * kLog2E)));
    return root * root;
  }
  static FUSED_ACTS_INLINE Real divide(Real a, Real b) { return a * reciprocal_of_any(b); }
  // (1 - e) / (1 + e) for x >= 0, odd
  static FUSED_ACTS_INLINE TanhParts<Real> tanh(Real x) {
    auto [exp, expm1] = exponential(abs(x + x));
    const Real weight = inverse(expm1 + Real(2.0f));
    return {copy_sign(expm1 * weight, x), exp, weight};
  }
  static FUSED_ACTS_INLINE Real log1p(Real x) {
    const Real s = x * inverse(x + Real(2.0f));
    return s * polynomial(s * s, 2.0f, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9);
  }
  static FUSED_ACTS_INLINE Real divide_by_sum(Real a, Real b, Real c) {
    return a * reciprocal_of_finite(b + c);
  }
  static FUSED_ACTS_INLINE Real sigmoid(Exponent t) {
    return reciprocal(exp2_fast(t) + Real(kScale)) * Real(kScale);
  }
  static FUSED_ACTS_INLINE Real coarse_sigmoid(Exponent t) {
    return inverse(exp2_fast(t) + Real(kScale)) * Real(kScale);
  }
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent t) {
    const Real s = coarse_sigmoid(t);
    return {x * s, s};
  }
  static FUSED_ACTS_INLINE SigmoidProduct<Real> swish(Real x) {
    return times_sigmoid(x, sigmoid_exponent(x));
  }
  // The ratio exp(a^2/2) * P(Z > a) is a polynomial in 1/(q + a), over [0, 14.5].
  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail(Real x) {
    // relative error 3.3e-6, but 4.1e-7 where |x| is near 0.75, the root of GELU's derivative
    return normal_tail_by<false>(x, 3.3f, -4.16966101e-05f, 0.402140559f, 1.21905117f, 5.47790466f,
                                 -3.00306266f, 86.161104f, -104.651138f);
  }
  static FUSED_ACTS_INLINE NormalTail<Real> coarse_normal_tail(Real x) {
    // relative error 1.4e-5
    return normal_tail_by<kCoarse>(x, 2.77777778f, 0.000182289127f, 0.38955535f, 1.2974342f,
                                   0.778301303f, 15.0735112f, -16.2168902f);
  }

 private:
  static FUSED_ACTS_INLINE Real inverse(Real x) {
    return kCoarse ? coarse_reciprocal(x) : reciprocal(x);
  }
  template <bool kIsCoarse, class... Coefficients>
  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail_by(Real x, float q, Coefficients... c) {
    // the tail is 0 from there, and inf*0 must not arise
    const Real a = at_most(abs(x), Real(15.0f));
    const Real scaled_gaussian =
        exp2_fast(fma(a * a, Real(static_cast<float>(-0.5 * kLog2E)), Real(-kLog2Scale)));
    const Real t = kIsCoarse ? coarse_reciprocal(a + Real(q)) : reciprocal_of_finite(a + Real(q));
    const Real tail = polynomial(t, kScale * c...) * scaled_gaussian;
    return {a, tail, tail, scaled_gaussian * Real(kScale * static_cast<float>(kRsqrt2Pi))};
  }
};

template <class Real>
using Math16 = MathOf16Bits<Real, false>;
template <class Real>
using MathBFloat16 = MathOf16Bits<Real, true>;

// ---- float64 storage ----

struct Math64 {
  using Real = double;
  using Exponent = double;  // the argument

  static FUSED_ACTS_INLINE double sigmoid_exponent(double x) { return x; }
  static FUSED_ACTS_INLINE double sigmoid_exponent(double x, double a, double b) {
    return x * fma(x * x, b, a);
  }
  static FUSED_ACTS_INLINE double scaled_exponent(double x, double c) { return c * x; }
  static FUSED_ACTS_INLINE Exponential<double> exponential(double z) {
    return {::exp(-z), ::expm1(-z)};
  }
  static FUSED_ACTS_INLINE Exponential<double> growth(double x) { return {::exp(x), ::expm1(x)}; }
  static FUSED_ACTS_INLINE double gaussian(double x) { return ::exp(-x * x); }
  static FUSED_ACTS_INLINE double divide(double a, double b) { return a / b; }
  static FUSED_ACTS_INLINE NegativeExp<double> negative_exp(double z) { return {::exp(-z), 1.0}; }
  static FUSED_ACTS_INLINE TanhParts<double> tanh(double x) {
    auto [exp, expm1] = exponential(abs(x + x));
    const double sum = expm1 + 2.0;
    return {copy_sign(expm1 / sum, x), exp, 1.0 / sum};
  }
  static FUSED_ACTS_INLINE double log1p(double x) { return ::log1p(x); }
  static FUSED_ACTS_INLINE double divide_by_sum(double a, double b, double c) {
    return a / (b + c);
  }
  static FUSED_ACTS_INLINE double sigmoid(double t) { return 1.0 / (1.0 + ::exp(-t)); }
  static FUSED_ACTS_INLINE double coarse_sigmoid(double t) { return sigmoid(t); }
  static FUSED_ACTS_INLINE SigmoidProduct<double> times_sigmoid(double x, double t) {
    const double s = sigmoid(t);
    return {x * s, s};
  }
  static FUSED_ACTS_INLINE SigmoidProduct<double> swish(double x) { return times_sigmoid(x, x); }
  static FUSED_ACTS_INLINE NormalTail<double> normal_tail(double x) {
    const double a = at_most(abs(x), 40.0);
    const double tail = 0.5 * ::erfc(a * kSqrt1_2);
    return {a, tail, tail, ::exp(-0.5 * a * a) * kRsqrt2Pi};
  }
  static FUSED_ACTS_INLINE NormalTail<double> coarse_normal_tail(double x) {
    return normal_tail(x);
  }
};

template <class>
using Math64Of = Math64;  // as the others are written

}  // namespace fused_acts
