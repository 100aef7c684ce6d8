// Numbers that carry their derivatives by x through arithmetic, over any math: of what an
// expression makes of such an x, JetFunction makes an activation as activations.h has them.
//
// A jet is a value, a slope and a second derivative of the kinds in derivatives.h. Numbers and
// parameters have slope Zero. A literal in an expression is a double or an Integer, and rounded to
// the arithmetic's type. Functions of jets are in jet_choices.h and jet_functions.h.
#pragma once

#include <type_traits>
#include <utility>

#include "math/derivatives.h"
#include "math/elementary.h"

namespace fused_acts {

template <class MathType, class Slope, class Second>
struct Jet {
  using Math = MathType;
  typename Math::Real value;
  Slope slope;
  Second second;
};

// x itself, of which some functions are in the table.
template <class M, class Slope, class Second>
struct Variable : Jet<M, Slope, Second> {
  FUSED_ACTS_INLINE explicit Variable(typename M::Real x)
      : Jet<M, Slope, Second>{x, Slope{}, Second{}} {}
};

// An integer that is known when it is compiled, in arithmetic a floating number: 1_i / 2_i is 0.5.
template <int64_t n>
struct Integer {
  FUSED_ACTS_INLINE constexpr operator double() const { return static_cast<double>(n); }
  FUSED_ACTS_INLINE constexpr Integer<-n> operator-() const { return {}; }
};
template <int64_t n, char... digits>
constexpr int64_t kIntegerOf = n;
template <int64_t n, char digit, char... rest>
constexpr int64_t kIntegerOf<n, digit, rest...> = kIntegerOf<10 * n + (digit - '0'), rest...>;
template <char... digits>
FUSED_ACTS_INLINE constexpr Integer<kIntegerOf<0, digits...>> operator""_i() {
  return {};
}

template <class M, class Slope, class Second>
FUSED_ACTS_INLINE Jet<M, Slope, Second> make_jet(typename M::Real value, Slope slope,
                                                 Second second) {
  return {value, slope, second};
}

// The jet of what is one; what becomes one when it is asked for has an overload of its own.
template <class M, class Slope, class Second>
FUSED_ACTS_INLINE Jet<M, Slope, Second> evaluated(Jet<M, Slope, Second> u) {
  return u;
}

template <class A>
constexpr bool kIsLiteral = std::is_convertible_v<A, double>;

template <class A, class = void>
struct MathOfOne {
  using type = void;
};
template <class A>
struct MathOfOne<A, std::void_t<decltype(evaluated(std::declval<A>()))>> {
  using type = typename decltype(evaluated(std::declval<A>()))::Math;
};
template <class A>
constexpr bool kIsJet = !std::is_void_v<typename MathOfOne<A>::type>;

template <class A, class... Rest>
struct FirstMath : std::conditional_t<kIsJet<A>, MathOfOne<A>, FirstMath<Rest...>> {};
template <class A>
struct FirstMath<A> : MathOfOne<A> {};

// The math of operands, each a jet or a literal, but not all of them literals.
template <class... A>
using MathOfJets =
    typename std::enable_if_t<(kIsJet<A> || ...) && ((kIsJet<A> || kIsLiteral<A>) && ...),
                              FirstMath<A...>>::type;

template <class M, class A>
FUSED_ACTS_INLINE auto jet_of(A a) {
  if constexpr (kIsLiteral<A>) {
    return make_jet<M>(typename M::Real(static_cast<double>(a)), Zero{}, Zero{});
  } else {
    return evaluated(a);
  }
}

// f(u) for a functor as activations.h describes it.
template <class F, class M, class Slope, class Second>
FUSED_ACTS_INLINE auto chain(F f, Jet<M, Slope, Second> u) {
  using Real = typename M::Real;
  if constexpr (std::is_same_v<Slope, Unasked> || std::is_same_v<Slope, Zero>) {
    return make_jet<M>(f.value(u.value), u.slope, u.second);
  } else if constexpr (std::is_same_v<Second, Unasked>) {
    auto [value, derivative] = f.dual(u.value);
    return make_jet<M>(value, product<Real>(derivative, u.slope), Unasked{});
  } else {
    auto [value, derivative, second] = f.triple(u.value);
    return make_jet<M>(
        value, product<Real>(derivative, u.slope),
        fused<Real>(product<Real>(second, u.slope), u.slope, product<Real>(derivative, u.second)));
  }
}

template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE A operator+(A a) {
  return a;
}
template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE auto operator-(A a) {
  using Real = typename M::Real;
  auto u = evaluated(a);
  return make_jet<M>(-u.value, negative<Real>(u.slope), negative<Real>(u.second));
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator+(A a, B b) {
  using Real = typename M::Real;
  auto u = jet_of<M>(a);
  auto v = jet_of<M>(b);
  return make_jet<M>(u.value + v.value, sum<Real>(u.slope, v.slope), sum<Real>(u.second, v.second));
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator-(A a, B b) {
  using Real = typename M::Real;
  auto u = jet_of<M>(a);
  auto v = jet_of<M>(b);
  return make_jet<M>(u.value - v.value, difference<Real>(u.slope, v.slope),
                     difference<Real>(u.second, v.second));
}

// (uv)' = u'v + uv', (uv)'' = u''v + 2u'v' + uv''
template <class M, class U, class V>
FUSED_ACTS_INLINE auto product_of_jets(U u, V v) {
  using Real = typename M::Real;
  auto crossed = product<Real>(u.slope, v.slope);
  auto without_u = fused<Real>(v.second, u.value, sum<Real>(crossed, crossed));
  return make_jet<M>(u.value * v.value,
                     fused<Real>(v.slope, u.value, product<Real>(u.slope, v.value)),
                     fused<Real>(u.second, v.value, without_u));
}

// q = u/v, q' = (u' - qv')/v, q'' = (u'' - 2q'v' - qv'')/v
template <class M, class U, class V>
FUSED_ACTS_INLINE auto quotient_of_jets(U u, V v) {
  using Real = typename M::Real;
  const Real q = M::divide(u.value, v.value), w = reciprocal_of_any(v.value);
  auto minus_v = negative<Real>(v.slope);
  auto slope = product<Real>(fused<Real>(minus_v, q, u.slope), w);
  auto crossed = product<Real>(minus_v, slope);
  auto second =
      fused<Real>(negative<Real>(v.second), q, sum<Real>(sum<Real>(crossed, crossed), u.second));
  return make_jet<M>(q, slope, product<Real>(second, w));
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator/(A a, B b) {
  if constexpr (kIsLiteral<B> && !std::is_same_v<typename M::Real, double>) {
    return a * (1.0 / static_cast<double>(b));
  } else {
    return quotient_of_jets<M>(jet_of<M>(a), jet_of<M>(b));
  }
}

template <class A, class B, class C, class M = MathOfJets<A, B, C>>
FUSED_ACTS_INLINE auto fma(A a, B b, C c) {
  auto u = jet_of<M>(a);
  auto v = jet_of<M>(b);
  auto w = jet_of<M>(c);
  auto all = product_of_jets<M>(u, v) + w;
  all.value = fma(u.value, v.value, w.value);
  return all;
}

// ---- the activation that an expression is ----

// Within an expression anything may cancel: a math that is coarse is for its last step alone.
template <class M>
struct FineMath {
  using type = M;
};
template <class Real>
struct FineMath<MathBFloat16<Real>> {
  using type = Math16<Real>;
};

// The jet of what an expression returns; overloaded where there is a last step.
template <class M, class A>
FUSED_ACTS_INLINE auto finished(A a) {
  return jet_of<typename FineMath<M>::type>(a);
}

// Parameters.
template <class M>
FUSED_ACTS_INLINE auto stands(typename M::Real number) {
  return make_jet<typename FineMath<M>::type>(number, Zero{}, Zero{});
}
template <class M>
FUSED_ACTS_INLINE auto moves(typename M::Real number, typename M::Real seed) {
  return make_jet<typename FineMath<M>::type>(number, seed, Unasked{});
}

// What Expression::of(x, parameters...) makes of an x with these derivatives.
template <class M, class Expression, class Slope, class Second, class... Parameters>
FUSED_ACTS_INLINE auto jet_of_expression(typename M::Real x, Parameters... parameters) {
  using X = Variable<typename FineMath<M>::type, Slope, Second>;
  return finished<M>(Expression::of(X(x), stands<M>(parameters)...));
}

template <class M, class Expression, class... Parameters>
FUSED_ACTS_INLINE auto value_of(typename M::Real x, Parameters... parameters) {
  return jet_of_expression<M, Expression, Unasked, Unasked>(x, parameters...).value;
}
template <class M, class Expression, class... Parameters>
FUSED_ACTS_INLINE auto dual_of(typename M::Real x, Parameters... parameters) {
  auto u = jet_of_expression<M, Expression, One, Unasked>(x, parameters...);
  return Dual<typename M::Real, decltype(u.slope)>{u.value, u.slope};
}
template <class M, class Expression, class... Parameters>
FUSED_ACTS_INLINE auto triple_of(typename M::Real x, Parameters... parameters) {
  auto u = jet_of_expression<M, Expression, One, Zero>(x, parameters...);
  return Triple<typename M::Real, decltype(u.slope), decltype(u.second)>{u.value, u.slope,
                                                                         u.second};
}
// Of a parameter that moves by seed, so that what masks it sees the seed.
template <class M, class Expression, class... Parameters>
FUSED_ACTS_INLINE auto tangent_of(typename M::Real x, Parameters... parameters) {
  auto u = finished<M>(Expression::of(stands<M>(x), parameters...));
  return as_number<typename M::Real>(u.slope);
}

template <class M, class Expression, int parameters>
struct JetFunction;

template <class M, class Expression>
struct JetFunction<M, Expression, 0> {
  using Real = typename M::Real;
  static constexpr const char* kName = "own";
  FUSED_ACTS_INLINE Real value(Real x) const { return value_of<M, Expression>(x); }
  FUSED_ACTS_INLINE auto dual(Real x) const { return dual_of<M, Expression>(x); }
  FUSED_ACTS_INLINE auto triple(Real x) const { return triple_of<M, Expression>(x); }
};

template <class M, class Expression>
struct JetFunction<M, Expression, 1> {
  using Real = typename M::Real;
  static constexpr const char* kName = "own";
  Real first;
  FUSED_ACTS_INLINE explicit JetFunction(Real first) : first(first) {}
  FUSED_ACTS_INLINE Real value(Real x) const { return value_of<M, Expression>(x, first); }
  FUSED_ACTS_INLINE auto dual(Real x) const { return dual_of<M, Expression>(x, first); }
  FUSED_ACTS_INLINE auto triple(Real x) const { return triple_of<M, Expression>(x, first); }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return tangent_of<M, Expression>(x, moves<M>(first, seed));
  }
};

template <class M, class Expression>
struct JetFunction<M, Expression, 2> {
  using Real = typename M::Real;
  static constexpr const char* kName = "own";
  Real first, other;
  FUSED_ACTS_INLINE JetFunction(Real first, Real other) : first(first), other(other) {}
  FUSED_ACTS_INLINE Real value(Real x) const { return value_of<M, Expression>(x, first, other); }
  FUSED_ACTS_INLINE auto dual(Real x) const { return dual_of<M, Expression>(x, first, other); }
  FUSED_ACTS_INLINE auto triple(Real x) const { return triple_of<M, Expression>(x, first, other); }
  FUSED_ACTS_INLINE Real by_parameter(Real x, Real seed) const {
    return tangent_of<M, Expression>(x, moves<M>(first, seed), stands<M>(other));
  }
  FUSED_ACTS_INLINE Real by_second(Real x, Real seed) const {
    return tangent_of<M, Expression>(x, stands<M>(first), moves<M>(other, seed));
  }
};

}  // namespace fused_acts
