// Each function of the tables against the jet of its value: the functors of math/activations.h are
// computed once more over a math whose numbers are jets in double.
#include <cmath>
#include <cstdio>

#include "math/jet_functions.h"
#include "math/variants.h"

using namespace fused_acts;

namespace {

using Plain = Jet<Math64, double, double>;

// A jet that stays of one type.
struct Number {
  Plain jet;
  Number() = default;
  explicit Number(double x) : jet{x, 0.0, 0.0} {}
  Number(double x, double slope, double second) : jet{x, slope, second} {}
  template <class A, class = MathOfJets<A>>
  Number(A a) {
    auto u = evaluated(a);
    jet = {u.value, as_number<double>(u.slope), as_number<double>(u.second)};
  }
};

Number operator+(Number a, Number b) { return a.jet + b.jet; }
Number operator-(Number a, Number b) { return a.jet - b.jet; }
Number operator*(Number a, Number b) { return a.jet * b.jet; }
Number operator-(Number a) { return -a.jet; }
bool operator>(Number a, Number b) { return a.jet.value > b.jet.value; }
Number select(bool c, Number a, Number b) { return c ? a : b; }
Number fma(Number a, Number b, Number c) { return fma(a.jet, b.jet, c.jet); }
Number abs(Number a) { return abs(a.jet); }
Number copy_sign(Number a, Number x) { return std::signbit(x.jet.value) ? -abs(a) : abs(a); }
Number clamp_below(Number a, float bound) { return max(a.jet, bound); }
Number at_most(Number a, Number bound) { return min(a.jet, bound.jet.value); }
Number clamp(Number a, Number low, Number high) { return at_most(max(a.jet, low.jet.value), high); }
Number positive_part(Number a, float = 0.0f) { return max(a.jet, 0); }
bool positive_or_nan(Number a) { return fused_acts::positive_or_nan(a.jet.value); }
Number quotient(Number a, Number b) { return a.jet / b.jet; }
Number reciprocal(Number a) { return reciprocal(a.jet); }

struct JetMath {
  using Real = Number;
  using Exponent = Number;
  static Number sigmoid_exponent(Number x) { return x; }
  static Number sigmoid_exponent(Number x, double a, double b) {
    return x.jet * (a + b * square(x.jet));
  }
  static Number scaled_exponent(Number x, Number c) { return c * x; }
  static Exponential<Number> exponential(Number z) { return {exp(-z.jet), expm1(-z.jet)}; }
  static NegativeExp<Number> negative_exp(Number z) { return {exp(-z.jet), Number(1.0)}; }
  static TanhParts<Number> tanh(Number x) {
    auto e = exp(-2 * abs(x.jet));
    return {fused_acts::tanh(x.jet), e, reciprocal(1 + e)};
  }
  static Number log1p(Number x) { return fused_acts::log1p(x.jet); }
  static Number divide_by_sum(Number a, Number b, Number c) { return a.jet / (b.jet + c.jet); }
  static Number sigmoid(Number z) { return evaluated(fused_acts::sigmoid(z.jet)); }
  static Number coarse_sigmoid(Number z) { return sigmoid(z); }
  static SigmoidProduct<Number> times_sigmoid(Number x, Number z) {
    return {x.jet * fused_acts::sigmoid(z.jet), sigmoid(z)};
  }
  static SigmoidProduct<Number> swish(Number x) { return times_sigmoid(x, x); }
  static NormalTail<Number> normal_tail(Number x) {
    Number a = abs(x), tail = evaluated(normal_cdf(-abs(x.jet)));
    return {a, tail, tail, kRsqrt2Pi * exp(-0.5 * square(x.jet))};
  }
  static NormalTail<Number> coarse_normal_tail(Number x) { return normal_tail(x); }
};

int failures = 0;

// Of the size of what cancels in a derivative, that of 1.
void compare(const char* name, const char* what, double x, double got, double expected,
             double tolerance) {
  if (std::abs(got - expected) <= tolerance * std::fmax(std::abs(expected), 1.0)) return;
  if (++failures < 30)
    std::printf("%s at %g, %s: %.17g, expected %.17g\n", name, x, what, got, expected);
}

template <class F, class Real>
F make([[maybe_unused]] Real parameter, [[maybe_unused]] Real second) {
  if constexpr (std::is_constructible_v<F, Real, Real>) {
    return F(parameter, second);
  } else if constexpr (std::is_constructible_v<F, Real>) {
    return F(parameter);
  } else {
    return F{};
  }
}

constexpr double kParameter = 0.75, kSecond = 1.25;

template <class F, class Real>
void compare_dual(const char* name, Real x, Plain jet, double tolerance) {
  auto dual = make<F>(Real(kParameter), Real(kSecond)).dual(x);
  compare(name, "value", x, dual.value, jet.value, tolerance);
  compare(name, "slope", x, as_number<Real>(dual.derivative), jet.slope, tolerance);
}
template <class F, class Real>
void compare_triple(const char* name, Real x, Plain jet, double tolerance) {
  auto triple = make<F>(Real(kParameter), Real(kSecond)).triple(x);
  compare(name, "value", x, triple.value, jet.value, tolerance);
  compare(name, "slope", x, as_number<Real>(triple.derivative), jet.slope, tolerance);
  compare(name, "second derivative", x, as_number<Real>(triple.second), jet.second, tolerance);
}

// Points at which no function has a kink.
template <class Visitor>
void each_point(Visitor visitor) {
  for (int i = -200; i <= 200; ++i)
    if (i != 0) visitor(static_cast<float>(0.0371 * i + 0.0007 * i * std::abs(i)));
}

template <template <class> class F>
void try_dual(const char* name) {
  each_point([&](float x) {
    Plain jet = make<F<JetMath>>(Number(kParameter), Number(kSecond)).value({x, 1.0, 0.0}).jet;
    compare_dual<F<Math64>>(name, double(x), jet, 1e-14);
    compare_dual<F<Math32<float>>>(name, x, jet, 2e-6);
    compare_dual<F<Math16<float>>>(name, x, jet, 1e-4);
  });
}

template <template <class> class F>
void try_triple(const char* name) {
  each_point([&](float x) {
    const Number parameter(kParameter), second(kSecond);
    Plain jet = make<F<JetMath>>(parameter, second).value({x, 1.0, 0.0}).jet;
    compare_triple<F<Math64>>(name, double(x), jet, 1e-14);
    compare_triple<F<Math32<float>>>(name, x, jet, 2e-5);
    compare_triple<F<Math16<float>>>(name, x, jet, 2e-4);
    if constexpr (std::is_constructible_v<F<Math64>, double> ||
                  std::is_constructible_v<F<Math64>, double, double>) {
      auto f = make<F<Math64>>(kParameter, kSecond);
      const Number moving(kParameter, 1.0, 0.0), moving_second(kSecond, 1.0, 0.0);
      const double by_parameter = make<F<JetMath>>(moving, second).value(Number(x)).jet.slope;
      compare(name, "by the parameter", x, f.by_parameter(x, 1.0), by_parameter, 1e-14);
      if constexpr (std::is_constructible_v<F<Math64>, double, double>) {
        const double by_second =
            make<F<JetMath>>(parameter, moving_second).value(Number(x)).jet.slope;
        compare(name, "by the second parameter", x, f.by_second(x, 1.0), by_second, 1e-14);
      }
    }
  });
}

}  // namespace

int main() {
#define FUSED_ACTS_TRY(name, f, g)           \
  try_dual<f>(#name ", f");                  \
  try_triple<Unit<f, g>::RowF>(#name ", f"); \
  try_triple<g>(#name ", g");
  FUSED_ACTS_VARIANTS(FUSED_ACTS_TRY)
  FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_TRY)
  std::printf("%d differences\n", failures);
  return failures != 0;
}
