// Functions that expressions are made of and that are no activations of the table, as functors of
// the same form; see activations.h. They hold over the whole range, subnormals and infinities
// included, as far as the device has subnormals.
#pragma once

#include <type_traits>

#include "math/dual.h"
#include "math/elementary.h"

namespace fused_acts {

// exp(x)
template <class M>
struct Exp {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return M::growth(x).exp; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    const Real exp = value(x);
    return {exp, exp};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real exp = value(x);
    return {exp, exp, exp};
  }
};

// expm1(x) = exp(x) - 1
template <class M>
struct Expm1 {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return M::growth(x).expm1; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto [exp, expm1] = M::growth(x);
    return {expm1, exp};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [exp, expm1] = M::growth(x);
    return {expm1, exp, exp};
  }
};

// log(x), of x = mantissa * 2^exponent as exponent * log(2) + log1p(mantissa - 1)
template <class M>
struct Log {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const {
    if constexpr (std::is_same_v<Real, double>) {
      return ::log(x);
    } else {
      Parts parts(x);
      return parts.log(x, parts.mantissa - Real(1.0f));
    }
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return {value(x), reciprocal_of_any(x)}; }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real w = reciprocal_of_any(x);
    return {value(x), w, -(w * w)};
  }

  struct Parts {
    Real mantissa, exponent;
    FUSED_ACTS_INLINE explicit Parts(Real x) {
      auto small = Real(0x1p-126f) > x;
      auto parts = split(select(small, x * Real(0x1p24f), x));
      mantissa = parts.mantissa;
      exponent = select(small, parts.exponent - Real(24.0f), parts.exponent);
    }
    // log(x), where the mantissa is 1 + rest.
    FUSED_ACTS_INLINE Real log(Real x, Real rest) const {
      // log(2) in two parts, the first so short that a product with it is exact
      const Real low = fma(exponent, Real(-2.12194440e-4f), M::log1p(rest));
      const Real log = fma(exponent, Real(0.693359375f), low);
      const Real outside = select(positive_or_nan(abs(x)), Real(kFloatNaN), Real(-kFloatInfinity));
      return select(x > Real(0.0f), select(Real(kFloatInfinity) > x, log, x), outside);
    }
  };
};

// log1p(x) = log(1 + x), near 0 of x as it is
template <class M>
struct Log1p {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const {
    if constexpr (std::is_same_v<Real, double>) {
      return ::log1p(x);
    } else {
      const Real u = x + Real(1.0f);
      typename Log<M>::Parts parts(u);
      return parts.log(u, select(abs(parts.exponent) > Real(0.5f), parts.mantissa - Real(1.0f), x));
    }
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    return {value(x), reciprocal_of_any(x + Real(1.0f))};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real w = reciprocal_of_any(x + Real(1.0f));
    return {value(x), w, -(w * w)};
  }
};

// sqrt(x), derivative 1 / (2*sqrt(x))
template <class M>
struct Sqrt {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return sqrt(x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real root = sqrt(x), w = reciprocal_of_any(root), slope = Real(0.5f) * w;
    return {root, slope, -slope * (slope * w)};
  }
};

// rsqrt(x) = 1 / sqrt(x) = w, derivative -w^3 / 2
template <class M>
struct Rsqrt {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return rsqrt(x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real w = rsqrt(x), square = w * w, slope = Real(-0.5f) * w * square;
    return {w, slope, Real(-1.5f) * slope * square};
  }
};

// 1/x = w, derivative -w^2
template <class M>
struct Reciprocal {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return reciprocal_of_any(x); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return without_second(triple(x)); }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    const Real w = reciprocal_of_any(x), square = w * w;
    return {w, -square, (w + w) * square};
  }
};

// x^2
template <class M>
struct Square {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return x * x; }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const { return {x * x, x + x}; }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const { return {x * x, x + x, Real(2.0f)}; }
};

// P(Z < x) for a standard normal Z, derivative its density
template <class M>
struct NormalCdf {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const { return of(x, M::coarse_normal_tail(x).tail); }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    auto normal = M::normal_tail(x);
    return {of(x, normal.tail), normal.density};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [value, density] = dual(x);
    return {value, density, -clamp_finite(x) * density};
  }

 private:
  static FUSED_ACTS_INLINE Real of(Real x, Real tail) {
    return select(x > Real(0.0f), Real(1.0f) - tail, tail);
  }
};

// erf(x) = 1 - 2*P(Z > x*sqrt(2)), near 0 a polynomial of x^2; derivative 2/sqrt(pi) * exp(-x^2)
template <class M>
struct Erf {
  using Real = typename M::Real;
  FUSED_ACTS_INLINE Real value(Real x) const {
    if constexpr (std::is_same_v<Real, double>) {
      return ::erf(x);
    } else {
      const Real x2 = x * x;
      const Real tail = M::normal_tail(x * Real(1.41421356f)).tail;
      const Real far = copy_sign(fma(tail, Real(-2.0f), Real(1.0f)), x);
      // relative error 6e-8
      const Real near = x * polynomial(x2, 1.12837911f, -0.376124263f, 0.112816066f, -0.0267678145f,
                                       0.00500345975f, -0.000607713708f);
      return select(abs(x) > Real(0.85f), far, near);
    }
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real x) const {
    return {value(x), Real(1.1283791670955126) * M::gaussian(x)};
  }
  FUSED_ACTS_INLINE Triple<Real> triple(Real x) const {
    auto [erf, slope] = dual(x);
    return {erf, slope, Real(-2.0f) * clamp_finite(x) * slope};
  }
};

}  // namespace fused_acts
