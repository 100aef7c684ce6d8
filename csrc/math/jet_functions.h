// The functions of jets, which expressions call by their names: those of functions.h and the
// activations of the table.
#pragma once

#include "math/activations.h"
#include "math/functions.h"
#include "math/jet.h"
#include "math/jet_choices.h"

namespace fused_acts {

constexpr double pi = 3.141592653589793;

// Of literals alone; sqrt and abs are in primitives.h.
FUSED_ACTS_INLINE double exp(double x) { return ::exp(x); }
FUSED_ACTS_INLINE double log(double x) { return ::log(x); }

// ---- products that are one function ----

// F(u) that is not computed yet: times x it may be a function of the table, in which less is lost.
template <template <class> class F, class U>
struct Later {
  U argument;
};
template <template <class> class F, class U>
FUSED_ACTS_INLINE auto evaluated(Later<F, U> later) {
  auto u = evaluated(later.argument);
  return chain(F<typename decltype(u)::Math>{}, u);
}
template <class A>
constexpr bool kIsVariable = false;
template <class M, class Slope, class Second>
constexpr bool kIsVariable<Variable<M, Slope, Second>> = true;
template <class A>
constexpr bool kIsLater = false;
template <template <class> class F, class U>
constexpr bool kIsLater<Later<F, U>> = true;

// tanh(softplus(x))
template <class M>
struct MishFactor {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return of(x, Unasked{}, Unasked{}).value; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto u = of(x, One{}, Unasked{});
    return {u.value, u.slope};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto u = of(x, One{}, Zero{});
    return {u.value, u.slope, u.second};
  }

 private:
  template <class Slope, class Second>
  static FUSED_ACTS_INLINE auto of(Real x, Slope slope, Second second) {
    return chain(Tanh<M>{}, chain(PlainSoftplus<M>{}, make_jet<M>(x, slope, second)));
  }
};

// situ with its usual cap, which one exponential makes; not so its second derivative.
template <class M>
struct UsualSitu : Situ<M> {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    return SituBeta<M>(Real(Situ<M>::kUsual)).triple(x);
  }
};

// The function that x * F(x) is, if it is one of the table.
template <template <class> class F>
struct TimesX {
  template <class M>
  using Product = void;
};
template <>
struct TimesX<Sigmoid> {
  template <class M>
  using Product = SwishThenLimit<M>;
};
template <>
struct TimesX<NormalCdf> {
  template <class M>
  using Product = Gelu<M>;
};
template <>
struct TimesX<MishFactor> {
  template <class M>
  using Product = Mish<M>;
};

// u * sigmoid(z), with s = sigmoid(z): derivative s*(u' + u*(1 - s)*z')
template <class M, class U, class Z>
FUSED_ACTS_INLINE auto times_sigmoid(U u, Z z) {
  using Real = typename M::Real;
  auto [p, s] = M::times_sigmoid(u.value, M::sigmoid_exponent(z.value));
  const Real rest = Real(1.0f) - s, tilt = fma(s, Real(-2.0f), Real(1.0f));
  auto crossed = product<Real>(product<Real>(u.slope, z.slope), s);
  auto bend = fused<Real>(product<Real>(z.slope, z.slope), tilt, z.second);
  auto inner = fused<Real>(bend, p, sum<Real>(crossed, crossed));
  return make_jet<M>(p, fused<Real>(product<Real>(z.slope, rest), p, product<Real>(u.slope, s)),
                     fused<Real>(u.second, s, product<Real>(inner, rest)));
}

template <class M, class A, template <class> class F, class U>
FUSED_ACTS_INLINE auto times_later(A a, Later<F, U> later) {
  using Product = typename TimesX<F>::template Product<M>;
  auto u = jet_of<M>(a);
  if constexpr (kIsVariable<A> && std::is_same_v<A, U> && !std::is_void_v<Product>) {
    return chain(Product{}, u);
  } else if constexpr (std::is_same_v<Later<F, U>, Later<Sigmoid, U>> &&
                       !std::is_same_v<decltype(u.slope), Zero>) {
    return times_sigmoid<M>(u, evaluated(later.argument));
  } else {
    return product_of_jets<M>(u, evaluated(later));
  }
}
template <class A, class B, class M = MathOf<A, B>>
FUSED_ACTS_INLINE auto operator*(A a, B b) {
  if constexpr (kIsLater<B>) {
    return times_later<M>(a, b);
  } else if constexpr (kIsLater<A>) {
    return times_later<M>(b, a);
  } else {
    return product_of_jets<M>(jet_of<M>(a), jet_of<M>(b));
  }
}

// ---- functions by their names ----

template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE Later<Sigmoid, A> sigmoid(A a) {
  return {a};
}
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE Later<NormalCdf, A> normal_cdf(A a) {
  return {a};
}
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE Later<PlainSoftplus, A> softplus(A a) {
  return {a};
}
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE auto tanh(A a) {
  return chain(Tanh<M>{}, evaluated(a));
}
template <class U>
FUSED_ACTS_INLINE Later<MishFactor, U> tanh(Later<PlainSoftplus, U> softplus) {
  return {softplus.argument};
}

// X(name, F)
#define FUSED_ACTS_FUNCTIONS(X) \
  X(exp, Exp)                   \
  X(expm1, Expm1)               \
  X(log, Log)                   \
  X(log1p, Log1p)               \
  X(sqrt, Sqrt)                 \
  X(rsqrt, Rsqrt)               \
  X(square, Square)             \
  X(reciprocal, Reciprocal)     \
  X(erf, Erf)                   \
  X(relu, Relu)                 \
  X(relu6, Relu6)               \
  X(squared_relu, SquaredRelu)  \
  X(gelu, Gelu)                 \
  X(gelu_tanh, GeluTanh)        \
  X(swish, SwishThenLimit)      \
  X(silu, SwishThenLimit)       \
  X(mish, Mish)                 \
  X(situ, UsualSitu)            \
  X(hardsigmoid, HardSigmoid)   \
  X(hardswish, HardSwish)       \
  X(softsign, Softsign)

// With a parameter.
#define FUSED_ACTS_FUNCTIONS_OF_TWO(X) \
  X(leaky_relu, LeakyRelu)             \
  X(prelu, LeakyRelu)                  \
  X(elu, Elu)                          \
  X(swish, SwishBeta)                  \
  X(silu, SwishBeta)                   \
  X(quick_gelu, SwishBeta)             \
  X(softplus, Softplus)                \
  X(softcap, SoftCap)                  \
  X(situ, SituBeta)                    \
  X(fatrelu, FatRelu)

#define FUSED_ACTS_DEFINE(name, F)        \
  template <class A, class M = MathOf<A>> \
  FUSED_ACTS_INLINE auto name(A a) {      \
    return chain(F<M>{}, evaluated(a));   \
  }
FUSED_ACTS_FUNCTIONS(FUSED_ACTS_DEFINE)
#undef FUSED_ACTS_DEFINE

// All that f(u) has, where f is made from a parameter whose derivative adds d to that of f(u).
template <class M, class U, class P, class D>
FUSED_ACTS_INLINE auto with_parameter(U u, P parameter, D d) {
  static_assert(std::is_same_v<D, Zero> || std::is_same_v<decltype(parameter.second), Unasked>,
                "a parameter of an activation must not depend on x");
  using Real = typename M::Real;
  return make_jet<M>(u.value, sum<Real>(u.slope, d), sum<Real>(u.second, parameter.second));
}
// by(seed) for a derivative of the parameter.
template <class Real, class D, class By>
FUSED_ACTS_INLINE auto moved(D d, By by) {
  if constexpr (std::is_same_v<D, Zero> || std::is_same_v<D, Unasked>) {
    return d;
  } else {
    return by(as_number<Real>(d));
  }
}
template <class F, class A, class P, class M = MathOf<A, P>>
FUSED_ACTS_INLINE auto chain_with_parameter(A a, P parameter) {
  auto u = jet_of<M>(a);
  auto p = jet_of<M>(parameter);
  F f(p.value);
  return with_parameter<M>(chain(f, u), p, moved<typename M::Real>(p.slope, [&](auto seed) {
                             return f.by_parameter(u.value, seed);
                           }));
}

#define FUSED_ACTS_DEFINE(name, F)                    \
  template <class A, class P, class M = MathOf<A, P>> \
  FUSED_ACTS_INLINE auto name(A a, P parameter) {     \
    return chain_with_parameter<F<M>>(a, parameter);  \
  }
FUSED_ACTS_FUNCTIONS_OF_TWO(FUSED_ACTS_DEFINE)
#undef FUSED_ACTS_DEFINE

template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE auto elu(A a) {
  return elu(a, 1.0);
}
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE auto leaky_relu(A a) {
  return leaky_relu(a, 0.01);
}
template <class A, class M = MathOf<A>>
FUSED_ACTS_INLINE auto quick_gelu(A a) {
  return quick_gelu(a, 1.702);
}
template <class A, class P, class Q, class M = MathOf<A, P, Q>>
FUSED_ACTS_INLINE auto xielu(A a, P alpha_p, Q alpha_n) {
  using Real = typename M::Real;
  auto u = jet_of<M>(a);
  auto p = jet_of<M>(alpha_p);
  auto q = jet_of<M>(alpha_n);
  Xielu<M> f(p.value, q.value);
  const auto by_first = [&](auto seed) { return f.by_parameter(u.value, seed); };
  const auto by_second = [&](auto seed) { return f.by_second(u.value, seed); };
  return with_parameter<M>(with_parameter<M>(chain(f, u), p, moved<Real>(p.slope, by_first)), q,
                           moved<Real>(q.slope, by_second));
}

// ---- powers ----

template <int n, class Real>
FUSED_ACTS_INLINE Real power(Real x) {
  if constexpr (n == 0) {
    return Real(1.0f);
  } else if constexpr (n == 1) {
    return x;
  } else if constexpr (n % 2 == 1) {
    return power<n - 1>(x) * x;
  } else {
    const Real root = power<n / 2>(x);
    return root * root;
  }
}

// x^n
template <int n, class Real>
struct Power {
  FUSED_ACTS_INLINE Real value(Real x) const { return power<n>(x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    return {power<n>(x), Real(n) * power<n - 1>(x), Real(n * (n - 1)) * power<n - 2>(x)};
  }
};

template <class A, int n, class M = MathOf<A>>
FUSED_ACTS_INLINE auto pow(A a, Integer<n>) {
  if constexpr (n < 0) {
    return reciprocal(pow(a, Integer<-n>{}));
  } else if constexpr (n == 0) {
    return jet_of<M>(1.0);
  } else if constexpr (n == 1) {
    return evaluated(a);
  } else {
    return chain(Power<n, typename M::Real>{}, evaluated(a));
  }
}

}  // namespace fused_acts
