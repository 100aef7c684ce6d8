// Comparisons of jets and the functions with kinks, whose slopes are torch's.
#pragma once

#include "math/jet.h"

namespace fused_acts {

// ---- conditions ----

template <class C>
struct Not {
  C condition;
};
template <class C, class D>
struct And {
  C first;
  D second;
};
template <class C, class D>
struct Or {
  C first;
  D second;
};
template <class C, class Real>
FUSED_ACTS_INLINE Real select(Not<C> c, Real a, Real b) {
  return select(c.condition, b, a);
}
template <class C, class D, class Real>
FUSED_ACTS_INLINE Real select(And<C, D> c, Real a, Real b) {
  return select(c.first, select(c.second, a, b), b);
}
template <class C, class D, class Real>
FUSED_ACTS_INLINE Real select(Or<C, D> c, Real a, Real b) {
  return select(c.first, a, select(c.second, a, b));
}

// What a comparison of jets is; only select() takes it.
template <class M, class C>
struct Condition {
  C holds;
};
template <class M, class C>
FUSED_ACTS_INLINE Condition<M, C> condition(C holds) {
  return {holds};
}
template <class M, class C>
FUSED_ACTS_INLINE Condition<M, Not<C>> operator!(Condition<M, C> c) {
  return {{c.holds}};
}
template <class M, class C, class D>
FUSED_ACTS_INLINE Condition<M, And<C, D>> operator&&(Condition<M, C> c, Condition<M, D> d) {
  return {{c.holds, d.holds}};
}
template <class M, class C, class D>
FUSED_ACTS_INLINE Condition<M, Or<C, D>> operator||(Condition<M, C> c, Condition<M, D> d) {
  return {{c.holds, d.holds}};
}

template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator>(A a, B b) {
  return condition<M>(jet_of<M>(a).value > jet_of<M>(b).value);
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator>=(A a, B b) {
  return condition<M>(jet_of<M>(a).value >= jet_of<M>(b).value);
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator<(A a, B b) {
  return b > a;
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto operator<=(A a, B b) {
  return b >= a;
}

// d where the condition holds, else e, for derivatives.
template <class Real, class C, class D, class E>
FUSED_ACTS_INLINE auto chosen(C holds, D d, E e) {
  if constexpr (kIsUnasked<D, E>) {
    return Unasked{};
  } else if constexpr (std::is_same_v<D, E> &&
                       (std::is_same_v<D, Zero> || std::is_same_v<D, One>)) {
    return d;
  } else if constexpr (std::is_same_v<E, Zero>) {
    return Where<C, Real>{holds, as_number<Real>(d)};
  } else if constexpr (std::is_same_v<D, Zero>) {
    return Where<Not<C>, Real>{{holds}, as_number<Real>(e)};
  } else {
    return select(holds, as_number<Real>(d), as_number<Real>(e));
  }
}

template <class M, class C, class A, class B>
FUSED_ACTS_INLINE auto select(Condition<M, C> c, A a, B b) {
  using Real = typename M::Real;
  auto u = jet_of<M>(a);
  auto v = jet_of<M>(b);
  return make_jet<M>(select(c.holds, u.value, v.value), chosen<Real>(c.holds, u.slope, v.slope),
                     chosen<Real>(c.holds, u.second, v.second));
}

// ---- kinks ----

// The derivative d where the first holds, e where the second does, and the third elsewhere.
template <class Real, class C, class D, class E, class Third>
FUSED_ACTS_INLINE auto chosen_of_three(C first, D d, C second, E e, Third third) {
  return chosen<Real>(first, d, chosen<Real>(second, e, third));
}

// slope 0 at 0
template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE auto abs(A a) {
  using Real = typename M::Real;
  auto u = evaluated(a);
  auto above = u.value > Real(0.0f), below = Real(0.0f) > u.value;
  return make_jet<M>(
      abs(u.value), chosen_of_three<Real>(above, u.slope, below, negative<Real>(u.slope), Zero{}),
      chosen_of_three<Real>(above, u.second, below, negative<Real>(u.second), Zero{}));
}

// A literal as the bound of a Real.
template <class Real>
using BoundOf = std::conditional_t<std::is_same_v<Real, double>, double, float>;

// The larger of two; where they are equal the mean of their slopes.
template <class M, class U, class V>
FUSED_ACTS_INLINE auto larger(U u, V v) {
  using Real = typename M::Real;
  auto first = u.value > v.value, second = v.value > u.value, some = v.value >= u.value;
  auto mean = product<Real>(sum<Real>(u.slope, v.slope), Real(0.5f));
  auto mean_second = product<Real>(sum<Real>(u.second, v.second), Real(0.5f));
  const Real or_nan = select(some, v.value, u.value + v.value);
  return make_jet<M>(select(first, u.value, or_nan),
                     chosen_of_three<Real>(first, u.slope, second, v.slope, mean),
                     chosen_of_three<Real>(first, u.second, second, v.second, mean_second));
}

// With a literal the slope is that of the other also where they are equal.
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto max(A a, B b) {
  using Real = typename M::Real;
  if constexpr (kIsLiteral<A>) {
    return max(b, a);
  } else if constexpr (kIsLiteral<B>) {
    auto u = evaluated(a);
    const auto bound = static_cast<BoundOf<Real>>(static_cast<double>(b));
    auto cut = Real(bound) > u.value;
    return make_jet<M>(clamp_below(u.value, bound), chosen<Real>(cut, Zero{}, u.slope),
                       chosen<Real>(cut, Zero{}, u.second));
  } else {
    return larger<M>(evaluated(a), evaluated(b));
  }
}
template <class A, class B, class M = MathOfJets<A, B>>
FUSED_ACTS_INLINE auto min(A a, B b) {
  using Real = typename M::Real;
  if constexpr (kIsLiteral<A>) {
    return min(b, a);
  } else if constexpr (kIsLiteral<B>) {
    auto u = evaluated(a);
    const Real bound(static_cast<double>(b));
    auto cut = u.value > bound;
    return make_jet<M>(at_most(u.value, bound), chosen<Real>(cut, Zero{}, u.slope),
                       chosen<Real>(cut, Zero{}, u.second));
  } else {
    return -larger<M>(-evaluated(a), -evaluated(b));
  }
}
template <class A, class B, class C, class M = MathOfJets<A, B, C>>
FUSED_ACTS_INLINE auto clamp(A a, B low, C high) {
  return min(max(a, low), high);
}

}  // namespace fused_acts
