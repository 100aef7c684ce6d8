// The functions of math/functions.h over all of float, in the widest registers that the flags allow
// and one at a time, against double: errors in ulps, subnormals, infinities and NaN.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "cpu/target_avx512.h"
// before what it is for
#include "cpu/simd_avx512.h"
#define ISA Avx512
#elif defined(__AVX2__) && defined(__FMA__)
#include "cpu/target_avx2.h"
// before what it is for
#include "cpu/simd_avx2.h"
#define ISA Avx2
#elif defined(__aarch64__)
#include "cpu/simd_neon.h"
#define ISA Neon
#define FUSED_ACTS_END_TARGET
#endif

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "cpu/vec.h"
#include "math/jet_functions.h"

using namespace fused_acts;

namespace {

int failures = 0;

struct Worst {
  const char *name, *what;
  double allowed, floor;  // in ulps, of what is below the floor in those of the floor
  double ulps = 0;

  void note(float x, float got, double exact) {
    const float rounded = static_cast<float>(exact);
    double off = 0;
    if (std::isnan(exact) || std::isnan(got) || std::isinf(got) || std::isinf(rounded)) {
      // next to the largest number either is right
      const bool largest = std::abs(exact) > 3.4028e38 && std::abs(got) > 3.4028e38f;
      const bool same = std::isnan(exact) ? std::isnan(got) : got == rounded;
      off = same || largest ? 0 : 1e9;
    } else {
      int exponent;
      std::frexp(std::fmax(std::abs(exact), floor), &exponent);
      off = std::abs(got - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
    }
    if (off > ulps) ulps = off;
    if (off > allowed && ++failures < 30)
      std::printf("%s of %s at %.9g: %.9g, expected %.9g\n", what, name, x, got, exact);
  }
};

struct Budget {
  double value, slope, second, floor;
};

template <class Real>
constexpr int kLanes = sizeof(Real) / sizeof(float);

template <class F, class Exact, class Real>
void try_range(const char* name, Budget budget) {
  constexpr int n = kLanes<Real>;
  Worst value{name, "the value alone", budget.value, budget.floor};
  Worst with_slope{name, "the value", budget.value, budget.floor};
  Worst slope{name, "the slope", budget.slope, budget.floor};
  Worst second{name, "the second derivative", budget.second, budget.floor};
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32);) {
    float x[n], results[4][n];
    for (int i = 0; i < n; ++i, bits += 4001) {
      const auto low = static_cast<uint32_t>(bits);
      std::memcpy(&x[i], &low, sizeof low);
    }
    Real real;
    std::memcpy(&real, x, sizeof real);
    auto dual = F{}.dual(real);
    auto triple = F{}.triple(real);
    const Real all[] = {F{}.value(real), dual.value, as_number<Real>(dual.derivative),
                        as_number<Real>(triple.second)};
    std::memcpy(results, all, sizeof results);
    for (int i = 0; i < n; ++i) {
      auto exact = Exact{}.triple(static_cast<double>(x[i]));
      value.note(x[i], results[0][i], exact.value);
      with_slope.note(x[i], results[1][i], exact.value);
      slope.note(x[i], results[2][i], as_number<double>(exact.derivative));
      second.note(x[i], results[3][i], as_number<double>(exact.second));
    }
  }
  std::printf("%-14s %2d: %8.4g %8.4g %8.4g %8.4g\n", name, n, value.ulps, with_slope.ulps,
              slope.ulps, second.ulps);
}

template <template <class> class F, class Real>
void try_maths(const char* name, Budget ulps, Budget parts) {
  try_range<F<Math32<Real>>, F<Math64>, Real>(name, ulps);
  // a relative error of 2e-5 is 335 ulps
  try_range<F<Math16<Real>>, F<Math64>, Real>(name, parts);
}

template <class Real>
void try_all() {
  const Budget coarse{335, 335, 670, 1.2e-38};
  try_maths<Exp, Real>("exp", {1, 1, 1, 0}, {335, 335, 335, 0});
  try_maths<Expm1, Real>("expm1", {2, 1, 1, 0}, {335, 335, 335, 0});
  try_maths<Log, Real>("log", {1, 1, 2, 0}, {10, 1, 2, 0});
  try_maths<Log1p, Real>("log1p", {3, 2, 4, 0}, {10, 2, 4, 0});
  try_maths<Sqrt, Real>("sqrt", {1, 2, 6, 0}, {1, 2, 6, 0});
  try_maths<Rsqrt, Real>("rsqrt", {2, 6, 10, 0}, {2, 6, 10, 0});
  try_maths<Reciprocal, Real>("reciprocal", {1, 2, 4, 0}, {1, 2, 4, 0});
  try_maths<Square, Real>("square", {1, 1, 1, 0}, {1, 1, 1, 0});
  try_maths<NormalCdf, Real>("normal_cdf", {5, 2, 10, 1.2e-38}, coarse);
  try_maths<Erf, Real>("erf", {3, 3, 5, 1e-36}, {50, 335, 335, 1e-36});
  // as sigmoids have it, whose 1 - sigmoid ends at 2^-24
  try_maths<PlainSoftplus, Real>("softplus", {2, 3, 4, 1}, {335, 335, 335, 1});
}

// The table's swish and gelu written anew, to the bit, in the coarse math of bfloat16 too.
struct SwishAnew {
  template <class X>
  static FUSED_ACTS_INLINE auto of(X x) {
    return x * sigmoid(x);
  }
};
struct GeluAnew {
  template <class X>
  static FUSED_ACTS_INLINE auto of(X x) {
    return x * normal_cdf(x);
  }
};
struct QuickGeluByName {
  template <class X>
  static FUSED_ACTS_INLINE auto of(X x) {
    return quick_gelu(x);
  }
};

template <class F, class Expression, class M>
void try_bits(const char* name, F f) {
  using Real = typename M::Real;
  JetFunction<M, Expression, 0> anew;
  for (float x = -20; x < 20; x += 0.01f) {
    auto expected = f.dual(Real(x));
    auto got = anew.dual(Real(x));
    const Real all_expected[] = {f.value(Real(x)), expected.value, expected.derivative};
    const Real all_got[] = {anew.value(Real(x)), got.value, got.derivative};
    if (std::memcmp(all_expected, all_got, sizeof all_got) && ++failures < 30)
      std::printf("%s at %g: other bits\n", name, x);
  }
}
template <class M>
void try_table() {
  using Real = typename M::Real;
  try_bits<Swish<M>, SwishAnew, M>("x * sigmoid(x)", {});
  try_bits<Gelu<M>, GeluAnew, M>("x * normal_cdf(x)", {});
  try_bits<SwishBeta<M>, QuickGeluByName, M>("quick_gelu(x)", SwishBeta<M>(Real(1.702)));
}

}  // namespace

int main() {
  try_all<float>();
#ifdef ISA
  using Register = Vec<ISA, 1>;
  try_all<Register>();
  try_table<Math32<Register>>();
  try_table<Math16<Register>>();
  try_table<MathBFloat16<Register>>();
#endif
  std::printf("%d differences\n", failures);
  return failures != 0;
}

#ifdef ISA
FUSED_ACTS_END_TARGET
#endif
