// Activations in pieces, most of them with a kink; see activations.h.
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

// xielu(x) = alpha_p*x^2 + x/2 above 0, alpha_n*(exp(min(x, eps)) - 1 - x) + x/2 elsewhere, with
// eps = -1e-6: between eps and 0 the exponential stands still
template <class M>
struct Xielu {
  using Real = typename M::Real;
  static constexpr const char* kName = "xielu";
  static constexpr double kEps = -1e-6;
  Real alpha_p, alpha_n;
  FUSED_ACTS_INLINE Xielu(Real alpha_p, Real alpha_n) : alpha_p(alpha_p), alpha_n(alpha_n) {}
  FUSED_ACTS_INLINE Real value(Real x) const {
    const Real half = x * Real(0.5f);
    return select(x > Real(0.0f), fma(alpha_p * x, x, half), fma(alpha_n, below(x), half));
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto above = x > Real(0.0f);
    auto [exp, expm1] = M::exponential(-at_most(x, Real(kEps)));
    const Real moving = select(x > Real(kEps), Real(0.0f), exp);
    const Real slope = select(x > Real(kEps), Real(-1.0f), expm1);
    return {value(x),
            select(above, fma(alpha_p + alpha_p, x, Real(0.5f)), fma(alpha_n, slope, Real(0.5f))),
            select(above, alpha_p + alpha_p, alpha_n * moving)};
  }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return select(x > Real(0.0f), x * x * seed, Real(0.0f));
  }
  FUSED_ACTS_INLINE Real by_second(Real x, Real seed) const {
    return select(x > Real(0.0f), Real(0.0f), below(x) * seed);
  }

 private:
  // exp(min(x, eps)) - 1 - x
  static FUSED_ACTS_INLINE Real below(Real x) {
    return M::exponential(-at_most(x, Real(kEps))).expm1 - x;
  }
};

}  // namespace fused_acts
