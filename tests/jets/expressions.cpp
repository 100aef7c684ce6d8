// Expressions as users write them: against difference quotients in double, and in float against
// double; those that are units of the table, to the bit; kinks, masks, and what costs nothing.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "math/jet_functions.h"

using namespace fused_acts;

namespace {

// X(name, expression of x)
#define EXPRESSIONS(X)                                                                       \
  X(sums, 1_i / 2_i + x - (3 - x) * 0.25 + +x - (x + x) * (x - 2))                           \
  X(products, (x + 1) * (2 - x * x) * x * 3)                                                 \
  X(quotients, (x + 1) / (3 + x * x) + 1 / (4 + square(x)) + x / 3)                          \
  X(powers, pow(x, 3_i) + pow(x, 2_i) - pow(2 + x * x, -2_i) + pow(x, 1_i) + pow(x, 0_i))    \
  X(exps, exp(-0.5 * x) + exp(-square(x)) + expm1(0.3 * x))                                  \
  X(logs, log(1.5 + x * x) * log1p(exp(x)) + log1p(x * x))                                   \
  X(roots, sqrt(1 + x * x) + rsqrt(2 + x * x) + reciprocal(5 + abs(x)))                      \
  X(fmas, fma(x, x, x) + fma(2, x, 1) - fma(sigmoid(x), tanh(x), 0.5))                       \
  X(normal, x* normal_cdf(2 * x) + erf(x) * erf(0.5 * x) + normal_cdf(x) * sigmoid(-x))      \
  X(sinlu, x* sigmoid(x) + 0.1 * tanh(x))                                                    \
  X(gates, (x + 1) * sigmoid(2 * x - 1) * sigmoid(x) - 3 * sigmoid(x))                       \
  X(powered, square(x) * sigmoid(x * x) + (x * x * x) * sigmoid(x))                          \
  X(softpluses, softplus(2 * x) * tanh(softplus(x - 1)) + softplus(x, 0.5))                  \
  X(choices, select(x > 0.3, x * x, sin_like(x)) + select(x <= -1 || x > 2, x, 2 * x - 1))   \
  X(nested, select(x > 2.2, 1, 0) + select(!(x < 1) && x < 3, x * x, 3 - x) * abs(x - 0.1))  \
  X(bounds, max(x, 0.4) * min(x, 1.3) + clamp(x, -2, 2) * x + max(-1, x))                    \
  X(pairs, max(x* x, x + 1) + min(exp(x), 2 - x))                                            \
  X(of_table, relu(x - 0.1) + gelu(2 * x) + mish(x * x) * elu(x - 0.1) + hardswish(x + 0.2)) \
  X(of_table_too, squared_relu(x + 0.1) * gelu_tanh(x) + silu(exp(x)) + softsign(x * x) +    \
                      relu6(2 * x) * hardsigmoid(x))                                         \
  X(with_parameters, leaky_relu(x - 0.1, 0.2) + elu(x * x - 1, 1.5) + swish(x, 1.702) +      \
                         quick_gelu(x) + softcap(x * 3, 2) + situ(x) + situ(2 * x, 3) +      \
                         fatrelu(x, 0.37) + xielu(x + 0.2, 0.8, 0.9) + prelu(x, 0.3) +       \
                         leaky_relu(x))

#define DEFINE(name, expression)                             \
  struct name {                                              \
    template <class X>                                       \
    static FUSED_ACTS_INLINE auto of([[maybe_unused]] X x) { \
      return expression;                                     \
    }                                                        \
  };

template <class X>
FUSED_ACTS_INLINE auto sin_like(X x) {
  return x * (1 - x * x * (1.0 / 6));
}
EXPRESSIONS(DEFINE)

int failures = 0;

void expect(bool holds, const char* name, const char* what, double x, double got, double expected) {
  if (holds) return;
  if (++failures < 30)
    std::printf("%s at %g, %s: %.9g, expected %.9g\n", name, x, what, got, expected);
}
void compare(const char* name, const char* what, double x, double got, double expected,
             double tolerance) {
  const double size = std::fmax(std::abs(expected), 1.0);
  expect(std::abs(got - expected) <= tolerance * size, name, what, x, got, expected);
}

struct Numbers {
  double value, slope, second;
};
template <template <class> class M, class Expression, class Real>
Numbers numbers(Real x) {
  auto t = JetFunction<M<Real>, Expression, 0>{}.triple(x);
  return {t.value, as_number<Real>(t.derivative), as_number<Real>(t.second)};
}

template <class Expression>
void try_expression(const char* name) {
  for (int i = -60; i <= 60; ++i) {
    const double x = float(0.05 * i + 0.0123), h = 1e-4;
    const Numbers exact = numbers<Math64Of, Expression>(x);
    JetFunction<Math64, Expression, 0> f;
    auto dual = f.dual(x);
    compare(name, "value alone", x, f.value(x), exact.value, 1e-15);
    compare(name, "value with a slope", x, dual.value, exact.value, 1e-15);
    compare(name, "slope alone", x, as_number<double>(dual.derivative), exact.slope, 1e-14);
    // fourth order differences
    const auto quotient = [&](auto g) {
      return (8 * (g(x + h) - g(x - h)) - (g(x + 2 * h) - g(x - 2 * h))) / (12 * h);
    };
    const auto value = [&](double y) { return numbers<Math64Of, Expression>(y).value; };
    const auto slope = [&](double y) { return numbers<Math64Of, Expression>(y).slope; };
    compare(name, "slope", x, exact.slope, quotient(value), 1e-9);
    compare(name, "second derivative", x, exact.second, quotient(slope), 1e-9);
    const Numbers single = numbers<Math32, Expression>(float(x));
    const Numbers coarse = numbers<Math16, Expression>(float(x));
    compare(name, "value in float", x, single.value, exact.value, 1e-6);
    compare(name, "slope in float", x, single.slope, exact.slope, 2e-6);
    compare(name, "second in float", x, single.second, exact.second, 1e-5);
    compare(name, "value for 16 bits", x, coarse.value, exact.value, 1e-4);
    compare(name, "slope for 16 bits", x, coarse.slope, exact.slope, 1e-4);
    compare(name, "second for 16 bits", x, coarse.second, exact.second, 2e-4);
  }
}

// ---- to the bit ----

DEFINE(SwishAnew, x* sigmoid(x))
DEFINE(SwishTurned, sigmoid(x) * x)
DEFINE(GeluAnew, x* normal_cdf(x))
DEFINE(MishAnew, x* tanh(softplus(x)))
DEFINE(SigmoidAnew, sigmoid(x))
DEFINE(SquaredReluAnew, square(relu(x)))

template <class F, class G, class Real>
void same_bits(const char* name) {
  for (int i = -4000; i <= 4000; ++i) {
    const Real x = Real(0.03f * i);
    auto f = F{}.dual(x);
    auto g = G{}.dual(x);
    const Real expected[] = {F{}.value(x), f.value, as_number<Real>(f.derivative)};
    const Real got[] = {G{}.value(x), g.value, as_number<Real>(g.derivative)};
    for (int k = 0; k < 3; ++k)
      expect(!std::memcmp(&got[k], &expected[k], sizeof(Real)), name, "bits", x, got[k],
             expected[k]);
  }
}
template <template <class> class F, class Expression>
void as_in_the_table(const char* name) {
  same_bits<F<Math64>, JetFunction<Math64, Expression, 0>, double>(name);
  same_bits<F<Math32<float>>, JetFunction<Math32<float>, Expression, 0>, float>(name);
  same_bits<F<Math16<float>>, JetFunction<Math16<float>, Expression, 0>, float>(name);
  same_bits<F<MathBFloat16<float>>, JetFunction<MathBFloat16<float>, Expression, 0>, float>(name);
}

// ---- kinks ----

DEFINE(Abs, abs(x))
DEFINE(MaxLiteral, max(x, 0))
DEFINE(MinLiteral, min(1, x))
DEFINE(Clamp, clamp(x, -1, 1))
DEFINE(MaxOfTwo, max(x, square(x)))
DEFINE(MinOfTwo, min(x, square(x)))
DEFINE(ReluHere, relu(x))
DEFINE(Guarded, select(x > 0, sqrt(x) * log(x), 0))
DEFINE(Root, sqrt(x))

template <class Expression>
void kink(const char* name, double x, double slope, double second = 0.0) {
  const Numbers exact = numbers<Math64Of, Expression>(x);
  const Numbers single = numbers<Math32, Expression>(float(x));
  expect(exact.slope == slope && float(slope) == single.slope, name, "slope", x, exact.slope,
         slope);
  expect(exact.second == second, name, "second derivative", x, exact.second, second);
}

void kinks() {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  kink<Abs>("abs", 0.0, 0.0);
  kink<Abs>("abs", -2.0, -1.0);
  kink<MaxLiteral>("max(x, 0)", 0.0, 1.0);
  kink<MaxLiteral>("max(x, 0)", -1.0, 0.0);
  kink<MinLiteral>("min(1, x)", 1.0, 1.0);
  kink<Clamp>("clamp", -1.0, 1.0);
  kink<Clamp>("clamp", 1.0, 1.0);
  kink<Clamp>("clamp", 1.5, 0.0);
  kink<MaxOfTwo>("max(x, x^2)", 1.0, 1.5, 1.0);
  kink<MinOfTwo>("min(x, x^2)", 0.0, 0.5, 1.0);
  kink<ReluHere>("relu", 0.0, 0.0);
  kink<Root>("sqrt", 0.0, infinity, -infinity);
  kink<Guarded>("select", -1.0, 0.0);
  kink<Guarded>("select", 0.0, 0.0);
  for (double x : {-3.0, 0.0})
    expect(numbers<Math64Of, Guarded>(x).value == 0, "select", "value", x, 1, 0);
  for (double bound : {infinity, -infinity, nan}) {
    auto masked = JetFunction<Math64, MaxLiteral, 0>{}.dual(-1.0).derivative;
    expect(times(masked, bound) == 0.0, "max(x, 0)", "masked", bound, 1, 0);
    auto guarded = JetFunction<Math64, Guarded, 0>{}.dual(-1.0).derivative;
    expect(times(guarded, bound) == 0.0, "select", "masked", bound, 1, 0);
  }
  for (auto value :
       {numbers<Math64Of, MaxOfTwo>(nan).value, numbers<Math64Of, MaxLiteral>(nan).value,
        numbers<Math64Of, Clamp>(nan).value, numbers<Math64Of, Abs>(nan).value})
    expect(std::isnan(value), "a kink", "NaN", nan, value, nan);
}

// ---- parameters ----

struct TwoParameters {
  template <class X, class A, class B>
  static FUSED_ACTS_INLINE auto of(X x, A a, B b) {
    return a * x * sigmoid(b * x) + select(x > 0, x, a * expm1(x)) + elu(x, a * b) +
           softcap(x, exp(b)) + max(x, a) + xielu(x, a, b) + x / (1 + abs(a * x)) + a;
  }
};
struct Masked {
  template <class X, class A>
  static FUSED_ACTS_INLINE auto of(X x, A a) {
    return select(x > 0, x, a * expm1(x)) + elu(x, a);
  }
};

void parameters() {
  using F = JetFunction<Math64, TwoParameters, 2>;
  static_assert(std::is_constructible_v<F, double, double> && !std::is_constructible_v<F, double>);
  static_assert(std::is_constructible_v<JetFunction<Math64, Masked, 1>, double>);
  static_assert(!std::is_constructible_v<JetFunction<Math64, Abs, 0>, double>);
  const double a = 0.7, b = 1.3, h = 1e-4, seed = 2.0;
  for (int i = -50; i <= 50; ++i) {
    const double x = 0.1 * i + 0.0123;
    const auto quotient = [&](double da, double db) {
      const auto g = [&](double k) { return F(a + k * h * da, b + k * h * db).value(x); };
      return seed * (8 * (g(1) - g(-1)) - (g(2) - g(-2))) / (12 * h);
    };
    compare("two parameters", "by the first", x, F(a, b).by_parameter(x, seed), quotient(1, 0),
            1e-9);
    compare("two parameters", "by the second", x, F(a, b).by_second(x, seed), quotient(0, 1), 1e-9);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const double masked = JetFunction<Math64, Masked, 1>(a).by_parameter(2.0, infinity);
  expect(masked == 0.0, "a parameter", "masked", infinity, masked, 0.0);
}

// ---- what costs nothing ----

DEFINE(Line, 3 * x + 1)
DEFINE(Shifted, x - 2)
DEFINE(Number, 2)

template <class Expression>
using TripleOf = decltype(JetFunction<Math64, Expression, 0>{}.triple(0.0));
static_assert(std::is_same_v<TripleOf<Line>, Triple<double, double, Zero>>);
static_assert(std::is_same_v<TripleOf<Shifted>, Triple<double, One, Zero>>);
static_assert(std::is_same_v<TripleOf<Number>, Triple<double, Zero, Zero>>);
static_assert(std::is_same_v<decltype(TripleOf<MaxLiteral>::second), Zero>);
static_assert(1_i / 2_i == 0.5 && -3_i == -3.0);

}  // namespace

int main() {
#define TRY(name, expression) try_expression<name>(#name);
  EXPRESSIONS(TRY)
  as_in_the_table<Swish, SwishAnew>("x * sigmoid(x)");
  as_in_the_table<Swish, SwishTurned>("sigmoid(x) * x");
  as_in_the_table<Gelu, GeluAnew>("x * normal_cdf(x)");
  as_in_the_table<Mish, MishAnew>("x * tanh(softplus(x))");
  as_in_the_table<Sigmoid, SigmoidAnew>("sigmoid(x)");
  as_in_the_table<SquaredRelu, SquaredReluAnew>("square(relu(x))");
  kinks();
  parameters();
  std::printf("%d differences\n", failures);
  return failures != 0;
}
