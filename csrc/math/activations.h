// The mathematics: unary activations, for host and device.
//
// Each activation is a functor over a math M (elementary.h) with
//   value(x)     f(x)
//   dual(x)      {f(x), f'(x)}
//   triple(x)    {f(x), f'(x), f''(x)}
// each sharing what its parts have in common; derivatives are of the kinds in dual.h. An
// activation with a parameter is made from it and also has
//   by_parameter(x, seed)   the derivative of f by the parameter, times seed; 0 where it vanishes,
//                           also next to an infinite or NaN seed, as torch masks it
// All are written without branches, so that one source serves a CUDA thread and a CPU vector lane.
#pragma once

#include "math/dual.h"
#include "math/elementary.h"

namespace fused_acts {

// identity(x) = x
template <class M>
struct Identity {
  using Real = typename M::Real;
  static constexpr const char* kName = "identity";
  FUSED_ACTS_INLINE Real value(Real x) const { return x; }
  FUSED_ACTS_INLINE Dual<Real, One> dual(Real x) const { return {x, One{}}; }
  FUSED_ACTS_INLINE Triple<Real, One, Zero> triple(Real x) const { return {x, One{}, Zero{}}; }
};

// plus_one(x) = x + 1
template <class M>
struct PlusOne {
  using Real = typename M::Real;
  static constexpr const char* kName = "plus_one";
  FUSED_ACTS_INLINE Real value(Real x) const { return x + Real(1.0f); }
  FUSED_ACTS_INLINE Dual<Real, One> dual(Real x) const { return {value(x), One{}}; }
  FUSED_ACTS_INLINE Triple<Real, One, Zero> triple(Real x) const {
    return {value(x), One{}, Zero{}};
  }
};

// relu(x) = max(x, 0), derivative 0 at 0
template <class M>
struct Relu {
  using Real = typename M::Real;
  static constexpr const char* kName = "relu";
  FUSED_ACTS_INLINE Real value(Real x) const { return positive_part(x); }
  FUSED_ACTS_INLINE auto dual(Real x) const {
    using Slope = Where<decltype(positive_or_nan(x)), Real>;
    return Dual<Real, Slope>{positive_part(x), {positive_or_nan(x), Real(1.0f)}};
  }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    using Slope = Where<decltype(positive_or_nan(x)), Real>;
    return Triple<Real, Slope, Zero>{positive_part(x), {positive_or_nan(x), Real(1.0f)}, Zero{}};
  }
};

// relu6(x) = min(max(x, 0), 6), derivative 0 at 0 and 6
template <class M>
struct Relu6 {
  using Real = typename M::Real;
  static constexpr const char* kName = "relu6";
  FUSED_ACTS_INLINE Real value(Real x) const { return at_most(positive_part(x), Real(6.0f)); }
  FUSED_ACTS_INLINE auto dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    auto between = positive_or_nan(x * (Real(6.0f) - x));
    return Triple<Real, Where<decltype(between), Real>, Zero>{
        value(x), {between, Real(1.0f)}, Zero{}};
  }
};

// fatrelu(x) = x above the threshold, 0 elsewhere; it has no derivative by the threshold
template <class M>
struct FatRelu {
  using Real = typename M::Real;
  static constexpr const char* kName = "fatrelu";
  Real threshold;
  FUSED_ACTS_INLINE explicit FatRelu(Real threshold) : threshold(threshold) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    return select(positive_or_nan(x - threshold), x, Real(0.0f));
  }
  FUSED_ACTS_INLINE auto dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    auto above = positive_or_nan(x - threshold);
    return Triple<Real, Where<decltype(above), Real>, Zero>{value(x), {above, Real(1.0f)}, Zero{}};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real, Real) const { return Real(0.0f); }
};

// squared_relu(x) = max(x, 0)^2, derivative 2*max(x, 0)
template <class M>
struct SquaredRelu {
  using Real = typename M::Real;
  static constexpr const char* kName = "squared_relu";
  FUSED_ACTS_INLINE Real value(Real x) const {
    const Real positive = positive_part(x);
    return positive * positive;
  }
  FUSED_ACTS_INLINE auto dual(Real x) const {
    using Slope = Where<decltype(positive_or_nan(x)), Real>;
    return Dual<Real, Slope>{value(x), {positive_or_nan(x), x + x}};
  }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    using Slope = Where<decltype(positive_or_nan(x)), Real>;
    return Triple<Real, Slope, Slope>{
        value(x), {positive_or_nan(x), x + x}, {positive_or_nan(x), Real(2.0f)}};
  }
};

// leaky_relu(x) = x above 0, slope*x elsewhere
template <class M>
struct LeakyRelu {
  using Real = typename M::Real;
  static constexpr const char* kName = "leaky_relu";
  Real slope;
  FUSED_ACTS_INLINE explicit LeakyRelu(Real slope) : slope(slope) {}
  FUSED_ACTS_INLINE Real value(Real x) const { return select(x > Real(0.0f), x, slope * x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    return {value(x), select(x > Real(0.0f), Real(1.0f), slope)};
  }
  FUSED_ACTS_INLINE Triple<Real, Real, Zero> triple(Real x) const {
    auto [value, derivative] = dual(x);
    return {value, derivative, Zero{}};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return select(x > Real(0.0f), Real(0.0f), x * seed);
  }
};

// elu(x) = x above 0, alpha*(exp(x) - 1) elsewhere
template <class M>
struct Elu {
  using Real = typename M::Real;
  static constexpr const char* kName = "elu";
  Real alpha;
  FUSED_ACTS_INLINE explicit Elu(Real alpha) : alpha(alpha) {}
  FUSED_ACTS_INLINE Real value(Real x) const { return select(x > Real(0.0f), x, alpha * below(x)); }
  FUSED_ACTS_INLINE auto dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    using Second = Where<decltype(positive_or_nan(x)), Real>;
    auto above = x > Real(0.0f);
    auto [exp, expm1] = M::exponential(positive_part(-x));
    const Real slope = alpha * exp;
    return Triple<Real, Real, Second>{select(above, x, alpha * copy_sign(expm1, x)),
                                      select(above, Real(1.0f), slope),
                                      {positive_or_nan(-x), slope}};  // 0 at 0, as torch has it
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return select(x > Real(0.0f), Real(0.0f), below(x) * seed);
  }

 private:
  // exp(x) - 1 for x <= 0
  static FUSED_ACTS_INLINE Real below(Real x) {
    return copy_sign(M::exponential(positive_part(-x)).expm1, x);
  }
};

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

// hardsigmoid(x) = min(max(x + 3, 0), 6) / 6, derivative 0 at -3 and 3
template <class M>
struct HardSigmoid {
  using Real = typename M::Real;
  static constexpr const char* kName = "hardsigmoid";
  FUSED_ACTS_INLINE Real value(Real x) const {
    return quotient(at_most(positive_part(x + Real(3.0f)), Real(6.0f)), Real(6.0f));
  }
  FUSED_ACTS_INLINE auto dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    auto between = positive_or_nan(Real(3.0f) - abs(x));
    return Triple<Real, Where<decltype(between), Real>, Zero>{
        value(x), {between, Real(1.0 / 6)}, Zero{}};
  }
};

// hardswish(x) = x * hardsigmoid(x), derivative x/3 + 1/2 between, 0 at -3 and 1 at 3
template <class M>
struct HardSwish {
  using Real = typename M::Real;
  static constexpr const char* kName = "hardswish";
  FUSED_ACTS_INLINE Real value(Real x) const {
    const Real bounded = clamp_below(x, -3.0f);  // -inf would not become 0
    return bounded * quotient(at_most(bounded + Real(3.0f), Real(6.0f)), Real(6.0f));
  }
  FUSED_ACTS_INLINE auto dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE auto triple(Real x) const {
    auto moves = positive_or_nan(x + Real(3.0f));
    auto between = positive_or_nan(Real(3.0f) - abs(x));
    const Real slope = select(between, fma(x, Real(1.0 / 3), Real(0.5f)), Real(1.0f));
    return Triple<Real, Where<decltype(moves), Real>, Where<decltype(between), Real>>{
        value(x), {moves, slope}, {between, Real(1.0 / 3)}};
  }
};

// softsign(x) = x / (1 + |x|), derivative 1 / (1 + |x|)^2
template <class M>
struct Softsign {
  using Real = typename M::Real;
  static constexpr const char* kName = "softsign";
  FUSED_ACTS_INLINE Real value(Real x) const {
    // it is 1 long before a reciprocal would be 0
    const Real bounded = clamp(x, Real(-0x1p60f), Real(0x1p60f));
    return quotient(bounded, abs(bounded) + Real(1.0f));
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const Real weight = reciprocal(abs(x) + Real(1.0f));
    return {value(x), weight * weight};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real weight = reciprocal(abs(x) + Real(1.0f)), square = weight * weight;
    const Real second = copy_sign(square * (weight + weight), -x);
    return {value(x), square, select(abs(x) > Real(0.0f), second, Real(0.0f))};
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
  FUSED_ACTS_INLINE Real value(Real x) const { return M::swish(x).product; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [swish, s] = M::swish(x);
    return {swish, fma(swish, Real(1.0f) - s, s)};
  }
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
