// Activations of one piece; see activations.h.
#pragma once

#include <type_traits>

#include "math/dual.h"
#include "math/elementary.h"

namespace fused_acts {

// tanh(x), derivative 4*e / (1 + e)^2 with e = exp(-2|x|), which 1 - tanh(x)^2 cancels away in the
// tails
template <class M>
struct Tanh {
  using Real = typename M::Real;
  static constexpr const char* kName = "tanh";
  FUSED_ACTS_INLINE Real value(Real x) const { return M::tanh(x).tanh; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [tanh, exp, weight] = M::tanh(x);
    return {tanh, Real(4.0f) * exp * weight * weight};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [tanh, derivative] = dual(x);
    return {tanh, derivative, Real(-2.0f) * tanh * derivative};
  }
};

// sigmoid(x) = 1 / (1 + exp(-x)), derivative s*(1 - s)
template <class M>
struct Sigmoid {
  using Real = typename M::Real;
  static constexpr const char* kName = "sigmoid";
  FUSED_ACTS_INLINE Real value(Real x) const { return M::coarse_sigmoid(M::sigmoid_exponent(x)); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const Real s = M::sigmoid(M::sigmoid_exponent(x));
    return {s, fma(-s, s, s)};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [s, derivative] = dual(x);
    return {s, derivative, derivative * fma(s, Real(-2.0f), Real(1.0f))};
  }
};

// softcap(x) = cap * tanh(x / cap), derivative 4*e / (1 + e)^2 with e = exp(-2|x/cap|); a cap of
// 2^120 or more is none
template <class M>
struct SoftCap {
  using Real = typename M::Real;
  static constexpr const char* kName = "softcap";
  Real cap, inverse;
  FUSED_ACTS_INLINE explicit SoftCap(Real cap) : cap(cap), inverse(quotient(Real(1.0f), cap)) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    const Real z = scaled(x);
    return select(is_straight(z), x, cap * M::tanh(z).tanh);
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real z = scaled(x);
    auto parts = M::tanh(z);
    const Real slope = slope_of(parts);
    return {select(is_straight(z), x, cap * parts.tanh), slope,
            Real(-2.0f) * inverse * parts.tanh * slope};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    const Real z = scaled(x);
    auto parts = M::tanh(z);
    // tanh(z) - z*slope, which cancels near 0: there by its series
    const Real far = fma(-clamp_finite(z), slope_of(parts), parts.tanh), z2 = z * z;
    const Real near =
        z * z2 *
        polynomial(z2, 2.0f / 3, -8.0f / 15, 34.0f / 105, -496.0f / 2835, 13820.0f / 155925);
    constexpr float kNear = std::is_same_v<Real, double> ? 0.0f : 0.3f;
    return select(abs(z) > Real(kNear), far, near) * seed;
  }

 private:
  FUSED_ACTS_INLINE Real scaled(Real x) const {
    return select(abs(cap) > Real(0x1p119f), Real(0.0f), x * inverse);
  }
  // Where it is x to the last bit; a quotient may have lost some of those.
  static FUSED_ACTS_INLINE auto is_straight(Real z) { return Real(0x1p-30f) > abs(z); }
  // with a weight of its own: where a derivative cancels, that of tanh is too coarse
  static FUSED_ACTS_INLINE Real slope_of(TanhParts<Real> parts) {
    const Real weight = reciprocal_of_finite(parts.exp + Real(1.0f));
    return Real(4.0f) * parts.exp * (weight * weight);
  }
};

// situ(x) = softcap(x) * sigmoid(x)
template <class M>
struct SituBeta {
  using Real = typename M::Real;
  static constexpr const char* kName = "situ";
  SoftCap<M> capped;
  FUSED_ACTS_INLINE explicit SituBeta(Real beta) : capped(beta) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    return M::times_sigmoid(capped.value(x), M::sigmoid_exponent(x)).product;
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [c, slope, bend] = capped.triple(x);
    const auto exponent = M::sigmoid_exponent(x);
    const Real situ = M::times_sigmoid(c, exponent).product, s = M::sigmoid(exponent);
    const Real rest = Real(1.0f) - s;
    return {situ, fma(situ, rest, slope * s),
            s * fma(rest, fma(c, fma(s, Real(-2.0f), Real(1.0f)), slope + slope), bend)};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return capped.by_parameter(x, M::sigmoid(M::sigmoid_exponent(x)) * seed);
  }
};

// situ(x) with a cap of 4, of whose factors one exponential makes both: with e = exp(-|x|/2) and
// h = e in the negative tail, else 1, it is 4*(1 - e)*h^2 / ((1 + e)*(1 + e^2)) with the sign of x
template <class M>
struct Situ {
  using Real = typename M::Real;
  static constexpr const char* kName = "situ";
  static constexpr double kUsual = 4.0;
  FUSED_ACTS_INLINE Real value(Real x) const {
    auto [e, expm1] = M::exponential(abs(x) * Real(0.5f));
    return value(x, e, expm1);
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [e, expm1] = M::exponential(abs(x) * Real(0.5f));
    const Real situ = value(x, e, expm1), square = e * e;
    const Real w = reciprocal_of_finite(square + Real(1.0f));  // sigmoid(|x|)
    const Real v = reciprocal_of_finite(e + Real(1.0f));
    auto above = x > Real(0.0f);
    const Real s = select(above, w, square * w), rest = select(above, square * w, w);
    return {situ, fma(situ, rest, Real(4.0f) * e * (v * v) * s)};
  }

 private:
  static FUSED_ACTS_INLINE Real value(Real x, Real e, Real expm1) {
    const Real h = select(x > Real(0.0f), Real(1.0f), e);
    const Real line = Real(-4.0f) * expm1 * h;
    const Real over_sum =
        M::divide_by_sum(line, e * fma(e, e + Real(1.0f), Real(1.0f)), Real(1.0f));
    return copy_sign(over_sum * h, x);
  }
};

// swish(x) = x * sigmoid(beta*x), derivative s + beta*swish*(1 - s)
template <class M>
struct SwishBeta {
  using Real = typename M::Real;
  static constexpr const char* kName = "swish";
  Real beta;
  FUSED_ACTS_INLINE explicit SwishBeta(Real beta) : beta(beta) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    return M::times_sigmoid(x, M::scaled_exponent(x, beta)).product;
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [swish, s] = M::times_sigmoid(x, M::scaled_exponent(x, beta));
    return {swish, fma(swish, beta * (Real(1.0f) - s), s)};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [swish, s] = M::times_sigmoid(x, M::scaled_exponent(x, beta));
    const Real rest = Real(1.0f) - s, z = clamp_finite(beta * x);
    const Real bracket = fma(z, fma(s, Real(-2.0f), Real(1.0f)), Real(2.0f));
    return {swish, fma(swish, beta * rest, s), (beta * s) * (rest * bracket)};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    const Real s = M::sigmoid(M::scaled_exponent(x, beta)), rest = Real(1.0f) - s;
    return select(positive_or_nan(rest), x * ((x * s) * rest) * seed, Real(0.0f));
  }
};

// swish(x) = x * sigmoid(x), derivative s + swish*(1 - s)
template <class M>
struct Swish {
  using Real = typename M::Real;
  static constexpr const char* kName = "swish";
  static constexpr double kUsual = 1.0;
  FUSED_ACTS_INLINE Real value(Real x) const { return M::swish(x).product; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [swish, s] = M::swish(x);
    return {swish, fma(swish, Real(1.0f) - s, s)};
  }
};

// The same, whose unit is limited behind it.
template <class M>
struct SwishThenLimit : Swish<M> {
  using Real = typename M::Real;
  static constexpr const char* kName = "silu";
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const { return SwishBeta<M>(Real(1.0f)).triple(x); }
};

// gelu(x) = x * P(Z < x) = x * (1 + erf(x/sqrt(2))) / 2 for a standard normal Z, derivative P(Z <
// x) + x*density(x)
template <class M>
struct Gelu {
  using Real = typename M::Real;
  static constexpr const char* kName = "gelu";
  FUSED_ACTS_INLINE Real value(Real x) const {
    auto normal = M::coarse_normal_tail(x);
    return fma(-normal.factor_a, normal.factor_b, positive_part(x, -0.0f));
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto normal = M::normal_tail(x);
    const Real below = select(x > Real(0.0f), Real(1.0f) - normal.tail, normal.tail);
    return {fma(-normal.factor_a, normal.factor_b, positive_part(x, -0.0f)),
            fma(x, normal.density, below)};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [gelu, derivative] = dual(x);
    auto normal = M::normal_tail(x);
    const Real a = select(abs(x) > Real(32.0f), Real(32.0f), x);  // the density is 0 there
    return {gelu, derivative, normal.density * fma(-a, a, Real(2.0f))};
  }
};

// gelu_tanh(x) = x * (1 + tanh(u)) / 2 = x * sigmoid(2u), u = sqrt(2/pi) * (x + 0.044715 x^3); the
// sigmoid keeps the negative tail, which 1 + tanh(u) cancels away. Derivative s + gelu_tanh*(1 -
// s)*(2u)'
template <class M>
struct GeluTanh {
  using Real = typename M::Real;
  static constexpr const char* kName = "gelu_tanh";
  static constexpr double kLinear = 1.5957691216057308;  // 2*sqrt(2/pi)
  static constexpr double kCubic = kLinear * 0.044715;
  FUSED_ACTS_INLINE Real value(Real x) const {
    return M::times_sigmoid(x, M::sigmoid_exponent(x, kLinear, kCubic)).product;
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [gelu, s] = M::times_sigmoid(x, M::sigmoid_exponent(x, kLinear, kCubic));
    // gelu*(1 - s) is 0 long before the slope reaches this bound, and 0*inf must not arise
    constexpr float kBound = 4096.0f;
#ifdef __CUDA_ARCH__
    const Real slope = saturated_fma(x * x, Real(3 * kCubic / kBound), Real(kLinear / kBound));
    const Real rest = fma(s, Real(-kBound), Real(kBound));
#else
    const Real slope = clamp_above(fma(x * x, Real(3 * kCubic), Real(kLinear)), kBound);
    const Real rest = Real(1.0f) - s;
#endif
    return {gelu, fma(gelu * rest, slope, s)};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [gelu, derivative] = dual(x);
    const Real s = M::times_sigmoid(x, M::sigmoid_exponent(x, kLinear, kCubic)).sigmoid;
    const Real a = select(abs(x) > Real(32.0f), Real(32.0f), x);  // s*(1 - s) is 0 there
    const Real slope = fma(a * a, Real(3 * kCubic), Real(kLinear));
    const Real tilt = fma(s, Real(-2.0f), Real(1.0f)) * slope;
    const Real bracket = fma(a, fma(slope, tilt, a * Real(6 * kCubic)), slope + slope);
    return {gelu, derivative, fma(-s, s, s) * bracket};
  }
};

// softplus(x) = log(1 + exp(beta*x)) / beta, derivative sigmoid(beta*x)
template <class M>
struct Softplus {
  using Real = typename M::Real;
  static constexpr const char* kName = "softplus";
  // 1/beta = inverse * raise: of a subnormal beta it may overflow where the quotient does not, and
  // a GPU's reciprocal takes such a beta for 0
  Real beta, raise, inverse;
  FUSED_ACTS_INLINE explicit Softplus(Real beta)
      : beta(beta),
        raise(select(Real(0x1p-100f) > abs(beta), Real(0x1p64f), Real(1.0f))),
        inverse(reciprocal(beta * raise)) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    const Real z = beta * x;
    return fma(M::log1p(M::exponential(abs(z)).exp) * raise, inverse,
               select(z > Real(0.0f), x, Real(0.0f)));
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    return {value(x), M::sigmoid(M::scaled_exponent(x, beta))};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [softplus, s] = dual(x);
    return {softplus, s, beta * fma(-s, s, s)};
  }
  // with e = exp(-|beta*x|), in which nothing cancels
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    const Real z = abs(beta * x), e = M::exponential(z).exp;
    const Real sum = fma(clamp_finite(z) * e, reciprocal(e + Real(1.0f)), M::log1p(e));
    const Real share = (sum * raise) * inverse, slope = (inverse * seed) * raise;
    return select(positive_or_nan(e), -share * slope, Real(0.0f));
  }
};

// mish(x) = x * tanh(softplus(x)) = x * t, t = h*(h + 2*v) / (h^2 + 2*h*v + 2*v^2), h/v = exp(x)
// with the larger of the two 1, so that nothing cancels and nothing overflows. Derivative t + x*t',
// t' = 4*h*(h + v)*v^2 / (h^2 + 2*h*v + 2*v^2)^2
template <class M>
struct Mish {
  using Real = typename M::Real;
  static constexpr const char* kName = "mish";
  FUSED_ACTS_INLINE Real value(Real x) const {
    Parts p(x);
    return (p.x * p.t) * p.scale;
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    Parts p(x);
    return {(p.x * p.t) * p.scale, fma(p.x, p.sum * p.bend, p.t) * p.scale};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    Parts p(x);
    const Real tilt = fma(p.sum, fma(p.sum * p.scale, Real(-4.0f) * p.w, Real(1.0f)), p.square);
    const Real second = p.bend * fma(clamp_finite(x), tilt, p.sum + p.sum);
    return {(p.x * p.t) * p.scale, fma(p.x, p.sum * p.bend, p.t) * p.scale, second * p.scale};
  }

 private:
  // All that h is a factor of lacks the factor scale.
  struct Parts {
    Real x;                               // where infinite times 0 would be NaN, a large number
    Real scale, t, sum, square, w, bend;  // t, h*(h + v), h^2, 1/(h^2 + ...), 4*v^2*w^2
    FUSED_ACTS_INLINE explicit Parts(Real argument)
        : x(select(Real(-1e30f) > argument, Real(-1e30f), argument)) {
      auto above = x > Real(0.0f);
      auto [power, power_scale] = M::negative_exp(abs(x));
      const Real one = Real(1.0f), e = power * power_scale;
      const Real h = select(above, one, power), v = select(above, e, one), v2 = v * v;
      scale = select(above, one, power_scale);
      square = h * select(above, one, e);
      sum = fma(h, v, square);
      const Real above_line = fma(h, v + v, square), below_line = above_line * scale;
      t = M::divide_by_sum(above_line, below_line, v2 + v2);
      w = reciprocal_of_finite(below_line + (v2 + v2));
      bend = (Real(4.0f) * v2) * (w * w);
    }
  };
};

}  // namespace fused_acts
