// The math of float32 storage, see elementary.h.
#pragma once

#include "math/elementary_types.h"

namespace fused_acts {

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
struct BinaryExp {
  Real power, k;
};

template <class Real>
struct BinaryExpm1 {
  Real f, f_low, k;
};

template <class Real>
struct ScaledExpm1 {
  Real f, f_low, scale;
};

template <class RealType>
struct Math32 {
  using Real = RealType;
  using Exponent = Sum<Real>;  // the argument

  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x) { return {x, Real(kMinusZero)}; }
  static FUSED_ACTS_INLINE Exponent sigmoid_exponent(Real x, double a, double b) {
    x = clamp(x, -kSaturation, kSaturation);
    Exponent cubic = multiply(square(x), b);
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
    const Real s = quotient(x, x + Real(2.0f)), s2 = s * s;
    const Real rest = s2 * polynomial(s2, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11,
                                      2.0f / 13, 2.0f / 15);
    return fma(s, rest - x, x);
  }
  // only its last step rounds: not the sum, and what is left of the division is divided too
  static FUSED_ACTS_INLINE Real divide_by_sum(Real a, Real b, Real c) {
    const Real w = reciprocal_of_finite(b + c), q = a * w;
    return fma(fma(-q, c, fma(-q, b, a)), w, q);
  }
  static FUSED_ACTS_INLINE Real sigmoid(Exponent z) { return times_sigmoid(Real(1.0f), z).product; }
  static FUSED_ACTS_INLINE Real coarse_sigmoid(Exponent z) { return sigmoid(z); }

#ifdef __CUDA_ARCH__
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent z) {
    // e = e^-|z|, raised by 2^32 in the far negative tail, where the product is normal but e is not
    Exponent t = multiply({clamp(z.high, -kSaturation, kSaturation), z.low}, kLog2E);
    const bool negative = t.high < 0, far = t.high < -80;
    const Real sign = negative ? 1.0f : -1.0f;
    const Real raised = exp2(sign * t.high + (far ? 32.0f : 0.0f), sign * t.low);
    const Real scale = far ? 0x1p-32f : 1.0f;
    const Real weight = reciprocal_of_finite(1.0f + raised * scale);
    const Real factor = negative ? raised : 1.0f;
    return {((x * weight) * factor) * scale, (weight * factor) * scale};
  }
  static FUSED_ACTS_INLINE SigmoidProduct<Real> swish(Real x) {
    return times_sigmoid(x, sigmoid_exponent(x));
  }
  // 0 <= z < 170
  static FUSED_ACTS_INLINE NegativeExp<Real> negative_exp(Exponent z) {
    Exponent t = multiply(z, -kLog2E);
    const bool far = t.high < -80;
    return {exp2(t.high + (far ? 64.0f : 0.0f), t.low), far ? 0x1p-64f : 1.0f};
  }
  static FUSED_ACTS_INLINE Exponential<Real> exponential(Real z) {
    auto [power, scale] = negative_exp(z);
    const Real near = z * polynomial(z, -1.0f, 0.5f, -1.0f / 6, 1.0f / 24, -1.0f / 120, 1.0f / 720,
                                     -1.0f / 5040, 1.0f / 40320, -1.0f / 362880);
    return {power * scale, select(z > Real(0.7f), power * scale - Real(1.0f), near)};
  }
  static FUSED_ACTS_INLINE Exponential<Real> growth(Real x) {
    Exponent t = multiply({clamp(x, -kSaturation, kLargest), kMinusZero}, kLog2E);
    const bool far = t.high < -80;
    const Real power = exp2(t.high + (far ? 64.0f : 0.0f), t.low) * (far ? 0x1p-64f : 1.0f);
    const Real exp = select(x > Real(kLargest), Real(kFloatInfinity), power);
    const Real near = x * polynomial(x, 1.0f, 0.5f, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720,
                                     1.0f / 5040, 1.0f / 40320, 1.0f / 362880);
    return {exp, select(abs(x) > Real(0.7f), exp - Real(1.0f), near)};
  }
  // A polynomial of x^2 near 0, of which the linear term has next to no error; beyond it 1 - 2e/(1
  // + e), where e is so small that its error is in the last bits only.
  static FUSED_ACTS_INLINE TanhParts<Real> tanh(Real x) {
    const Real a = abs(x), x2 = x * x;
    const Real near = fma(a * x2,
                          polynomial(x2, -0.333333313f, 0.133332506f, -0.0539481714f, 0.0216894057f,
                                     -0.00811350718f, 0.00206062151f),
                          a);
    const Real e = exponential(a + a).exp, weight = reciprocal_of_finite(e + Real(1.0f));
    const Real far = fma(-(e + e), weight, Real(1.0f));
    return {copy_sign(select(a > Real(0.7f), far, near), x), e, weight};
  }
#else
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid(Real x, Exponent z) {
    // -inf would not become 0
    return times_sigmoid_of(clamp_below(x, -3.4028235e38f),
                            {clamp(z.high, -kSaturation, kSaturation), z.low});
  }
  static FUSED_ACTS_INLINE SigmoidProduct<Real> swish(Real x) {
    x = clamp_below(x, -kSaturation);
    return times_sigmoid_of(x, {at_most(x, kSaturation), Real(kMinusZero)});
  }
  static FUSED_ACTS_INLINE NegativeExp<Real> negative_exp(Exponent z) {
    BinaryExp<Real> e = binary_exp(z);
    return {e.power, scale_down(Real(1.0f), e.k)};
  }
  // 2^k * (1 + f), of which f keeps its bits near 0
  static FUSED_ACTS_INLINE Exponential<Real> exponential(Real z) {
    auto [f, f_low, scale] = scaled_expm1(z);
    return {fma(scale, f, scale), fma(scale, f, scale - Real(1.0f))};
  }
  static FUSED_ACTS_INLINE Exponential<Real> growth(Real x) {
    // 0 and infinity from these bounds
    auto [f, f_low, k] = binary_expm1({-clamp(x, -110.0f, 89.0f), Real(kMinusZero)});
    // half of exp - 1, whose terms are finite
    const Real half = scale_down_or_flush(Real(1.0f), k - Real(1.0f));
    const Real expm1 = fma(half, f, half - Real(0.5f));
    return {scale(f + Real(1.0f), k), copy_sign(expm1 + expm1, x)};
  }
  // -m / (2 + m), m = e^-2|x| - 1, with what its sums and the division have rounded away
  static FUSED_ACTS_INLINE TanhParts<Real> tanh(Real x) {
    auto [f, f_low, scale] = scaled_expm1(abs(x + x));
    const Real shift = scale - Real(1.0f), m = fma(scale, f, shift);
    const Real rounded = (scale - (shift + Real(1.0f))) + fma(scale, f, shift - m);
    const Real m_low = fma(scale, f_low, rounded);
    const Real w = reciprocal_of_finite(m + Real(2.0f)), q = m * w;
    const Real left = fma(-q, m, fma(q, Real(-2.0f), m)) + fma(-q, m_low, m_low);
    return {copy_sign(fma(left, w, q), x), fma(scale, f, scale), w};
  }
#endif

  static FUSED_ACTS_INLINE NegativeExp<Real> negative_exp(Real z) {
    return negative_exp(Exponent{at_most(z, kSaturation), Real(kMinusZero)});
  }
  static FUSED_ACTS_INLINE Real gaussian(Real x) {
    auto [power, scale] = negative_exp(square(at_most(abs(x), Real(13.5f))));
    return power * scale;
  }
  static FUSED_ACTS_INLINE Real divide(Real a, Real b) { return quotient_of_any(a, b); }
  static FUSED_ACTS_INLINE NormalTail<Real> normal_tail(Real x) {
    const Real a = at_most(abs(x), Real(15.0f));
    const Real half = a * Real(0.5f), high = a * half;
    auto [gaussian, scale] = negative_exp(Exponent{high, fma(a, half, -high)});
    // as in Math16, relative error 1.2e-8
    const Real ratio =
        polynomial(reciprocal_of_finite(fma(a, Real(0.33f), Real(1.0f))), 6.339493825254375e-06f,
                   0.13147859254486516f, 0.13367996911260718f, 0.1037215195075865f,
                   0.145838568214747f, -0.1065781681409042f, 0.29124743102272793f,
                   -0.3219487489626301f, 0.14838386053790395f, -0.025829357223232416f);
    // up to 1.25 one half less the integral of the density, as a polynomial of x^2/2
    auto far = a > Real(1.25f);
    const Real integral =
        polynomial(high, 0.398942292f, -0.132981166f, 0.0398983173f, -0.00951595139f,
                   0.00188140292f, -0.000331893971f, 4.70680861e-05f);
    const Real tail = select(far, ratio * gaussian, fma(-a, integral, Real(0.5f)));
    const Real tail_scale = select(far, scale, Real(1.0f));
    return {a * tail, tail_scale, tail * tail_scale,
            gaussian * scale * Real(static_cast<float>(kRsqrt2Pi))};
  }
  static FUSED_ACTS_INLINE NormalTail<Real> coarse_normal_tail(Real x) { return normal_tail(x); }

 private:
  static constexpr float kSaturation =
      200.0f;  // a sigmoid is 0 or 1 from there, and no product may overflow
  static constexpr float kLargest = 88.72283f;  // whose exponential is finite
  static constexpr float kMinusZero = -0.0f;    // adding it changes nothing, not even a -0

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
  // sigmoid = 2^a / (2^a + power*2^b) with a = min(-k, 0), b = min(k, 0): no power of two
  // overflows, and 2^a is multiplied to x first, as the product may be normal where the sigmoid is
  // not
  static FUSED_ACTS_INLINE SigmoidProduct<Real> times_sigmoid_of(Real x, Exponent z) {
    BinaryExp<Real> e = binary_exp(z);
    const Real b = clamp_above(e.k, 0.0f), a = b - e.k;
    const Real sum = scale_down_or_flush(Real(1.0f), a) + scale_down_or_flush(e.power, b);
    return {quotient(scale_down(x, a), sum), scale_down(reciprocal_of_finite(sum), a)};
  }
  static FUSED_ACTS_INLINE Reduced<Real> reduce(Exponent z) {
    const Real k = rounded_product(z.high, Real(static_cast<float>(-kLog2E)));
    // log(2) in two parts, the first so short that k times it is exact
    return {fma(k, Real(-2.12194440e-4f), fma(k, Real(0.693359375f), z.high)) + z.low, k};
  }
  // e^-z = scale * (1 + f + f_low), z >= 0
  static FUSED_ACTS_INLINE ScaledExpm1<Real> scaled_expm1(Real z) {
    auto [f, f_low, k] = binary_expm1({at_most(z, kSaturation), Real(kMinusZero)});
    return {f, f_low, scale_down(Real(1.0f), k)};
  }
  // e^-z = 2^k * (1 + f + f_low)
  static FUSED_ACTS_INLINE BinaryExpm1<Real> binary_expm1(Exponent z) {
    auto [rest, k] = reduce(z);
    const Real curve = (rest * rest) * polynomial(rest, 0.5f, -1.0f / 6, 0.041666355f,
                                                  -0.0083332732f, 0.0013941006f, -0.00019914168f);
    const Real f = curve - rest;
    return {f, curve - (f + rest), k};
  }
  static FUSED_ACTS_INLINE BinaryExp<Real> binary_exp(Exponent z) {
    auto [reduced, k] = reduce(z);
    return {polynomial(reduced, 1.0f, -1.0f, 0.49999994f, -0.16666432f, 0.041668f, -0.008374161f,
                       0.0013843647f),
            k};
  }
#endif
};

}  // namespace fused_acts
