// The mathematics: unary activations. Torch-free, host and device.
//
// Each activation is a functor over a math M (real_math.h) with
//   value(x)     f(x)
//   dual(x)      {f(x), f'(x)}, sharing what the two have in common; the derivative is a number, a
//   condition that
//                stands for 1 or 0, or One. times(derivative, y) multiplies by it
// written without branches, so that one source serves a CUDA thread and a CPU vector lane.
#pragma once

#include <type_traits>

#include "real_math.h"

namespace fused_acts {

template <class Real, class Derivative = Real>
struct Dual {
  Real value;
  Derivative derivative;
};

// The derivative of the identity.
struct One {};

template <class Real>
FUSED_ACTS_INLINE Real times(Real derivative, Real y) {
  return derivative * y;
}
template <class Real>
FUSED_ACTS_INLINE Real times(One, Real y) {
  return y;
}
// Not a product: 0 * inf is no gradient.
template <class Condition, class Real>
FUSED_ACTS_INLINE Real times(Condition derivative, Real y) {
  return select(derivative, y, Real(0.0f));
}

// identity(x) = x
template <class M>
struct Identity {
  using Real = typename M::Real;
  static constexpr const char* kName = "identity";
  FUSED_ACTS_INLINE Real value(Real x) const { return x; }
  FUSED_ACTS_INLINE Dual<Real, One> dual(Real x) const { return {x, One{}}; }
};

// relu(x) = max(x, 0), derivative 0 at 0
template <class M>
struct Relu {
  using Real = typename M::Real;
  static constexpr const char* kName = "relu";
  FUSED_ACTS_INLINE Real value(Real x) const { return positive_part(x); }
  FUSED_ACTS_INLINE auto dual(Real x) const {
    const auto rises = not_below_or_zero(x);
    return Dual<Real, std::remove_const_t<decltype(rises)>>{positive_part(x), rises};
  }
};

// sigmoid(x) = 1 / (1 + exp(-x)), derivative s*(1 - s)
template <class M>
struct Sigmoid {
  using Real = typename M::Real;
  static constexpr const char* kName = "sigmoid";
  FUSED_ACTS_INLINE Real value(Real x) const { return M::sigmoid(M::sigmoid_exponent(x, 1.0)); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const Real s = value(x);
    return {s, fma(-s, s, s)};
  }
};

// swish(x) = x * sigmoid(x), derivative s + swish*(1 - s)
template <class M>
struct Swish {
  using Real = typename M::Real;
  static constexpr const char* kName = "swish";
  FUSED_ACTS_INLINE Real value(Real x) const {
    return M::times_sigmoid(x, M::sigmoid_exponent(x, 1.0)).product;
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const auto [swish, s] = M::times_sigmoid(x, M::sigmoid_exponent(x, 1.0));
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
    const auto normal = M::coarse_normal_tail(x);
    return fma(-normal.factor_a, normal.factor_b, positive_part(x, -0.0f));
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const auto normal = M::normal_tail(x);
    const Real below = select(x > Real(0.0f), Real(1.0f) - normal.tail, normal.tail);
    return {fma(-normal.factor_a, normal.factor_b, positive_part(x, -0.0f)),
            fma(x, normal.density, below)};
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
    const auto [gelu, s] = M::times_sigmoid(x, M::sigmoid_exponent(x, kLinear, kCubic));
    // gelu*(1 - s) is 0 long before the slope reaches this bound, and 0*inf must not arise
    constexpr float kBound = 4096.0f;
    const Real slope = saturated_fma(x * x, Real(3 * kCubic / kBound), Real(kLinear / kBound));
    return {gelu, fma(gelu * fma(s, Real(-kBound), Real(kBound)), slope, s)};
  }
};

}  // namespace fused_acts
