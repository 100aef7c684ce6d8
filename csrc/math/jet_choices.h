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
template <class C>
struct Condition {
  C holds;
};
template <class C>
FUSED_ACTS_INLINE Condition<C> condition(C holds) {
  return {holds};
}
template <class C>
FUSED_ACTS_INLINE Condition<Not<C>> operator!(Condition<C> c) {
  return {{c.holds}};
}
template <class C, class D>
FUSED_ACTS_INLINE Condition<And<C, D>> operator&&(Condition<C> c, Condition<D> d) {
  return {{c.holds, d.holds}};
}
template <class C, class D>
FUSED_ACTS_INLINE Condition<Or<C, D>> operator||(Condition<C> c, Condition<D> d) {
  return {{c.holds, d.holds}};
}

template <class A, class B, class M = MathOf<A, B>>
FUSED_ACTS_INLINE auto operator>(A a, B b) {
  return condition(jet_of<M>(a).value > jet_of<M>(b).value);
}
template <class A, class B, class M = MathOf<A, B>>
FUSED_ACTS_INLINE auto operator>=(A a, B b) {
  return condition(jet_of<M>(a).value >= jet_of<M>(b).value);
}
template <class A, class B, class M = MathOf<A, B>>
FUSED_ACTS_INLINE auto operator<(A a, B b) {
  return b > a;
}
template <class A, class B, class M = MathOf<A, B>>
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

template <class C, class A, class B, class M = MathOf<A, B>>
FUSED_ACTS_INLINE auto select(Condition<C> c, A a, B b) {
  using Real = typename M::Real;
  auto u = jet_of<M>(a);
  auto v = jet_of<M>(b);
  return make_jet<M>(select(c.holds, u.value, v.value), chosen<Real>(c.holds, u.slope, v.slope),
                     chosen<Real>(c.holds, u.second, v.second));
}

// ---- kinks ----

// slope 0 at 0
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE auto abs(A a) {
  using Real = typename M::Real;
  auto u = evaluated(a);
  auto above = u.value > Real(0.0f), below = Real(0.0f) > u.value;
  const auto with_sign = [&](auto d) {
    return chosen<Real>(above, d, chosen<Real>(below, negative<Real>(d), Zero{}));
  };
  return make_jet<M>(abs(u.value), with_sign(u.slope), with_sign(u.second));
}

// A literal as the bound of a Real.
template <class Real>
using BoundOf = std::conditional_t<std::is_same_v<Real, double>, double, float>;

// The larger of two; where they are equal the mean of their slopes.
template <class M, class U, class V>
FUSED_ACTS_INLINE auto larger(U u, V v) {
  using Real = typename M::Real;
  auto first = u.value > v.value, second = v.value > u.value, some = v.value >= u.value;
  const auto of_larger = [&](auto d, auto e) {
    auto mean = product<Real>(sum<Real>(d, e), Real(0.5f));
    return chosen<Real>(first, d, chosen<Real>(second, e, mean));
  };
  const Real or_nan = select(some, v.value, u.value + v.value);
  return make_jet<M>(select(first, u.value, or_nan), of_larger(u.slope, v.slope),
                     of_larger(u.second, v.second));
}

// With a literal the slope is that of the other also where they are equal.
template <class A, class B, class M = MathOf<A, B>>
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
template <class A, class B, class M = MathOf<A, B>>
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
template <class A, class B, class C, class M = MathOf<A, B, C>>
FUSED_ACTS_INLINE auto clamp(A a, B low, C high) {
  return min(max(a, low), high);
}

}  // namespace fused_acts
