// Functions of jets that are not computed before it is known what becomes of them.
#pragma once

#include "math/jet.h"

namespace fused_acts {

// F(u), and F made from a parameter of u: as the last step of an expression it is what the table
// has, to the bit, and times x it may be another function of the table, in which less is lost.
template <template <class> class F, class U>
struct Later {
  U argument;
};
template <template <class> class F, class U, class P>
struct LaterOfTwo {
  U argument;
  P parameter;
};

// Whether a jet may be the parameter of an activation: one that depends on x has second derivatives
// by both, which activations don't have.
template <class P>
constexpr bool kMayBeParameter =
    std::is_same_v<decltype(P::slope), Zero> || std::is_same_v<decltype(P::second), Unasked>;

// The same number for another math.
template <class M, class N, class Slope, class Second>
FUSED_ACTS_INLINE Jet<M, Slope, Second> with_math(Jet<N, Slope, Second> u) {
  return {u.value, u.slope, u.second};
}

// What is to be added to the derivative of f(u), where f's parameter has the derivative d.
template <class Real, class F, class D>
FUSED_ACTS_INLINE auto by_parameter(F f, Real u, D d) {
  if constexpr (std::is_same_v<D, Zero> || std::is_same_v<D, Unasked>) {
    return d;
  } else {
    return f.by_parameter(u, as_number<Real>(d));
  }
}
template <class Real, class F, class D>
FUSED_ACTS_INLINE auto by_second(F f, Real u, D d) {
  if constexpr (std::is_same_v<D, Zero> || std::is_same_v<D, Unasked>) {
    return d;
  } else {
    return f.by_second(u, as_number<Real>(d));
  }
}
template <class M, class U, class P, class D>
FUSED_ACTS_INLINE auto with_parameter(U u, P parameter, D d) {
  using Real = typename M::Real;
  return make_jet<M>(u.value, sum<Real>(u.slope, d), sum<Real>(u.second, parameter.second));
}

template <class M, template <class> class F, class U>
FUSED_ACTS_INLINE auto finished(Later<F, U> later) {
  return chain(F<M>{}, with_math<M>(evaluated(later.argument)));
}
template <class M, template <class> class F, class U, class P>
FUSED_ACTS_INLINE auto finished(LaterOfTwo<F, U, P> later) {
  auto u = with_math<M>(later.argument);
  auto p = later.parameter;
  F<M> f(p.value);
  return with_parameter<M>(chain(f, u), p, by_parameter(f, u.value, p.slope));
}
template <template <class> class F, class U>
FUSED_ACTS_INLINE auto evaluated(Later<F, U> later) {
  return finished<typename decltype(evaluated(later.argument))::Math>(later);
}
template <template <class> class F, class U, class P>
FUSED_ACTS_INLINE auto evaluated(LaterOfTwo<F, U, P> later) {
  return finished<typename U::Math>(later);
}

template <class A>
constexpr bool kIsVariable = false;
template <class M, class Slope, class Second>
constexpr bool kIsVariable<Variable<M, Slope, Second>> = true;
template <class A>
constexpr bool kIsLater = false;
template <template <class> class F, class U>
constexpr bool kIsLater<Later<F, U>> = true;

}  // namespace fused_acts
