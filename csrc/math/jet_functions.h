// The functions of jets, which expressions call by their names: those of functions.h and the
// activations of the table.
#pragma once

#include "math/activations.h"
#include "math/functions.h"
#include "math/jet.h"
#include "math/jet_choices.h"
#include "math/jet_later.h"

namespace fused_acts {

constexpr double pi = 3.141592653589793;

// Of literals alone; sqrt and abs are in primitives.h.
FUSED_ACTS_INLINE double exp(double x) { return ::exp(x); }
FUSED_ACTS_INLINE double log(double x) { return ::log(x); }

// ---- products that are one function ----

// softplus(x) = log(1 + exp(x)), derivative sigmoid(x)
template <class M>
struct PlainSoftplus {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const {
    return M::log1p(M::exponential(abs(x)).exp) + positive_part(x);
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    return {value(x), M::sigmoid(M::sigmoid_exponent(x))};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [softplus, s] = dual(x);
    return {softplus, s, fma(-s, s, s)};
  }
};

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
template <template <class> class F, class X>
struct TimesX {
  using type = void;
};
template <class X>
struct TimesX<Sigmoid, X> {
  using type = Later<SwishThenLimit, X>;
};
template <class X>
struct TimesX<NormalCdf, X> {
  using type = Later<Gelu, X>;
};
template <class X>
struct TimesX<MishFactor, X> {
  using type = Later<Mish, X>;
};

// u * sigmoid(z), with s = sigmoid(z): s' = s*(1 - s)*z', s'' = s*(1 - s)*(z'' + (1 - 2s)*z'^2)
template <class M, class U, class Z>
FUSED_ACTS_INLINE auto times_sigmoid(U u, Z z) {
  using Real = typename M::Real;
  auto [p, s] = M::times_sigmoid(u.value, M::sigmoid_exponent(z.value));
  const Real rest = Real(1.0f) - s, tilt = fma(s, Real(-2.0f), Real(1.0f));
  auto crossed = product<Real>(u.slope, z.slope);
  auto bend = fused<Real>(product<Real>(z.slope, z.slope), tilt, z.second);
  // of large numbers the rest is 0, before a product with them may be infinite
  auto inner = fused<Real>(bend, u.value * rest, product<Real>(sum<Real>(crossed, crossed), rest));
  return make_jet<M>(p, fused<Real>(product<Real>(z.slope, rest), p, product<Real>(u.slope, s)),
                     product<Real>(sum<Real>(inner, u.second), s));
}

// The same that is not computed yet.
template <class U, class Z>
struct TimesSigmoid {
  U factor;
  Z argument;
};
template <class M, class U, class Z>
FUSED_ACTS_INLINE auto finished(TimesSigmoid<U, Z> later) {
  return times_sigmoid<M>(with_math<M>(later.factor), with_math<M>(later.argument));
}
template <class U, class Z>
FUSED_ACTS_INLINE auto evaluated(TimesSigmoid<U, Z> later) {
  return times_sigmoid<typename U::Math>(later.factor, later.argument);
}

template <class M, class A, template <class> class F, class U>
FUSED_ACTS_INLINE auto times_later(A a, Later<F, U> later) {
  using Product = typename TimesX<F, U>::type;
  auto u = jet_of<M>(a);
  if constexpr (kIsVariable<A> && std::is_same_v<A, U> && !std::is_void_v<Product>) {
    return Product{a};
  } else if constexpr (std::is_same_v<Later<F, U>, Later<Sigmoid, U>> &&
                       !std::is_same_v<decltype(u.slope), Zero>) {
    auto z = evaluated(later.argument);
    return TimesSigmoid<decltype(u), decltype(z)>{u, z};
  } else {
    return product_of_jets<M>(u, evaluated(later));
  }
}
template <class A, class B, class M = MathOfJets<A, B>>
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

// X(name, F)
#define FUSED_ACTS_FUNCTIONS(X) \
  X(sigmoid, Sigmoid)           \
  X(tanh, Tanh)                 \
  X(softplus, PlainSoftplus)    \
  X(normal_cdf, NormalCdf)      \
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

#define FUSED_ACTS_DEFINE(name, F)            \
  template <class A, class M = MathOfJets<A>> \
  FUSED_ACTS_INLINE Later<F, A> name(A a) {   \
    return {a};                               \
  }
FUSED_ACTS_FUNCTIONS(FUSED_ACTS_DEFINE)
#undef FUSED_ACTS_DEFINE
template <class U>
FUSED_ACTS_INLINE Later<MishFactor, U> tanh(Later<PlainSoftplus, U> softplus) {
  return {softplus.argument};
}

#define FUSED_ACTS_DEFINE(name, F)                                    \
  template <class A, class P, class M = MathOfJets<A, P>>             \
  FUSED_ACTS_INLINE auto name(A a, P parameter) {                     \
    auto u = jet_of<M>(a);                                            \
    auto p = jet_of<M>(parameter);                                    \
    static_assert(kMayBeParameter<decltype(p)>,                       \
                  "a parameter of " #name "() must not depend on x"); \
    return LaterOfTwo<F, decltype(u), decltype(p)>{u, p};             \
  }
FUSED_ACTS_FUNCTIONS_OF_TWO(FUSED_ACTS_DEFINE)
#undef FUSED_ACTS_DEFINE

template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE auto elu(A a) {
  return elu(a, 1.0);
}
template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE auto leaky_relu(A a) {
  return leaky_relu(a, 0.01);
}
template <class A, class M = MathOfJets<A>>
FUSED_ACTS_INLINE auto quick_gelu(A a) {
  return quick_gelu(a, 1.702);
}
template <class A, class P, class Q, class M = MathOfJets<A, P, Q>>
FUSED_ACTS_INLINE auto xielu(A a, P alpha_p, Q alpha_n) {
  auto u = jet_of<M>(a);
  auto p = jet_of<M>(alpha_p);
  auto q = jet_of<M>(alpha_n);
  static_assert(kMayBeParameter<decltype(p)> && kMayBeParameter<decltype(q)>,
                "a parameter of xielu() must not depend on x");
  Xielu<M> f(p.value, q.value);
  auto by_first = with_parameter<M>(chain(f, u), p, by_parameter(f, u.value, p.slope));
  return with_parameter<M>(by_first, q, by_second(f, u.value, q.slope));
}

// ---- powers ----

template <int64_t n, class Real>
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
template <int64_t n, class Real>
struct Power {
  FUSED_ACTS_INLINE Real value(Real x) const { return power<n>(x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    return {power<n>(x), Real(n) * power<n - 1>(x), Real(n * (n - 1)) * power<n - 2>(x)};
  }
};

template <class A, int64_t n, class M = MathOfJets<A>>
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
