// Gated units with statistics of whole rows, for host and device: norms and a cut by mean and
// deviation.
//
// Each is a functor over a math M, for one group of n columns, of first and second operands x and
// y:
//   add(x, y, shift, sums)                  adds an element to the sums of its row
//   statistics(sums, n, shift, stats)       what is kept of a row
//   constants(stats, parameters, c)         of the row, for
//   value(x, y, weight, c)                  the result
// and backward, for a gradient g of the result,
//   constants(stats, parameters, c), add_backward(g, x, y, weight, c, sums)
//   parameter_sums(stats, sums, out)        what the row adds to the gradients of the parameters
//   backward_constants(stats, parameters, sums, n, c), gradients(g, x, y, weight, c)
// Real is what goes through the arithmetic together; Scalar, a number, is one row's. A weight is
// one a column, parameters are four for all rows and columns. shift is one of the row's x where
// kShifted, else 0.
#pragma once

#include "math/activations.h"

namespace fused_acts {

// As the operators number them, and fused_acts/_row_units.py.
enum class RowUnit : int {
  kNormSwish,    // norm(x) * weight * swish(y), norm(x) = x / sqrt(mean(x^2) + eps)
  kNormSigmoid,  // norm(x) * weight * sigmoid(y)
  kSwishNorm,    // norm(x * swish(y)) * weight
  kSigmoidNorm,  // norm(x * sigmoid(y)) * weight
  kPolyNorm,     // (c0*norm(x^3) + c1*norm(x^2) + c2*norm(x) + bias) * y
  kTopK,         // gelu_tanh(max(x - mean(x) - quantile*std(x), 0)) * y
  kCount
};

// The most there are of each.
constexpr int kRowSums = 4, kRowConstants = 7, kRowParameters = 4;

struct RowSettings {
  RowUnit unit;
  double number;  // eps or quantile
};

template <class Real>
struct RowGradients {
  Real x, y, weight;
};

template <class Scalar>
FUSED_ACTS_INLINE Scalar inverse_root(Scalar mean_square, double eps) {
  return Scalar(1) / std::sqrt(mean_square + static_cast<Scalar>(eps));
}

template <class M>
struct RmsNormGated {
  using Real = typename M::Real;
  static constexpr int kSums = 1, kStats = 1, kConstants = 1;
  static constexpr int kBackwardSums = 1, kBackwardConstants = 2;
  static constexpr bool kHasWeight = true, kHasParameters = false, kShifted = false;

  bool is_sigmoid, norm_first;
  double eps;
  FUSED_ACTS_INLINE explicit RmsNormGated(const RowSettings& s)
      : is_sigmoid(s.unit == RowUnit::kNormSigmoid || s.unit == RowUnit::kSigmoidNorm),
        norm_first(s.unit == RowUnit::kNormSwish || s.unit == RowUnit::kNormSigmoid),
        eps(s.number) {}

  // Whether the sums need y.
  FUSED_ACTS_INLINE bool adds_second() const { return !norm_first; }

  FUSED_ACTS_INLINE void add(Real x, Real y, Real, Real* sums) const {
    const Real h = norm_first ? x : x * act(y);
    sums[0] = fma(h, h, sums[0]);
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void statistics(const Scalar* sums, Scalar n, Scalar, Scalar* stats) const {
    stats[0] = inverse_root(sums[0] / n, eps);
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void constants(const Scalar* stats, const Scalar*, Scalar* c) const {
    c[0] = stats[0];
  }
  FUSED_ACTS_INLINE Real value(Real x, Real y, Real weight, const Real* c) const {
    const Real a = act(y);
    return norm_first ? (x * c[0]) * weight * a : ((x * a) * c[0]) * weight;
  }

  FUSED_ACTS_INLINE void add_backward(Real g, Real x, Real y, Real weight, const Real*,
                                      Real* sums) const {
    // sum(d_normed * h) in either order
    sums[0] = fma(g * weight, x * act(y), sums[0]);
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void parameter_sums(const Scalar*, const Scalar*, Scalar*) const {}
  template <class Scalar>
  FUSED_ACTS_INLINE void backward_constants(const Scalar* stats, const Scalar*, const Scalar* sums,
                                            Scalar n, Scalar* c) const {
    c[0] = stats[0];
    c[1] = stats[0] * (stats[0] * (stats[0] * (sums[0] / n)));
  }
  // d_h = r*d_normed - h*r^3*mean(d_normed*h), where h is what is normed and r the inverse root
  FUSED_ACTS_INLINE RowGradients<Real> gradients(Real g, Real x, Real y, Real weight,
                                                 const Real* c) const {
    auto [a, slope] = dual(y);
    const Real one = Real(1.0f), before = norm_first ? one : a, behind = norm_first ? a : one;
    const Real h = x * before, seed = g * behind, normed = h * c[0];
    const Real by_h = fma(-h, c[1], (seed * weight) * c[0]);
    return {by_h * before, (norm_first ? (g * weight) * normed : by_h * x) * slope, seed * normed};
  }

 private:
  FUSED_ACTS_INLINE Real act(Real y) const {
    if (is_sigmoid) return Sigmoid<M>().value(y);
    return Swish<M>().value(y);
  }
  FUSED_ACTS_INLINE Dual<Real> dual(Real y) const {
    if (is_sigmoid) return Sigmoid<M>().dual(y);
    return Swish<M>().dual(y);
  }
};

// Parameters are c0, c1, c2 and the bias.
template <class M>
struct PolyNormGlu {
  using Real = typename M::Real;
  static constexpr int kSums = 3, kStats = 3, kConstants = 4;
  static constexpr int kBackwardSums = 4, kBackwardConstants = 7;
  static constexpr bool kHasWeight = false, kHasParameters = true, kShifted = false;

  double eps;
  FUSED_ACTS_INLINE explicit PolyNormGlu(const RowSettings& s) : eps(s.number) {}
  FUSED_ACTS_INLINE bool adds_second() const { return false; }

  FUSED_ACTS_INLINE void add(Real x, Real, Real, Real* sums) const {
    const Real square = x * x, cube = square * x;
    sums[0] = sums[0] + square;
    sums[1] = fma(square, square, sums[1]);
    sums[2] = fma(cube, cube, sums[2]);
  }
  // of x, x^2 and x^3
  template <class Scalar>
  FUSED_ACTS_INLINE void statistics(const Scalar* sums, Scalar n, Scalar, Scalar* stats) const {
    for (int i = 0; i < 3; ++i) stats[i] = inverse_root(sums[i] / n, eps);
  }
  // of the polynomial x*(c[0] + x*(c[1] + x*c[2])) + c[3]
  template <class Scalar>
  FUSED_ACTS_INLINE void constants(const Scalar* stats, const Scalar* parameters, Scalar* c) const {
    for (int i = 0; i < 3; ++i) c[i] = parameters[2 - i] * stats[i];
    c[3] = parameters[3];
  }
  FUSED_ACTS_INLINE Real value(Real x, Real y, Real, const Real* c) const {
    return polynomial_of(x, c) * y;
  }

  // of d = g*y times 1, x, x^2 and x^3
  FUSED_ACTS_INLINE void add_backward(Real g, Real x, Real y, Real, const Real*, Real* sums) const {
    const Real d = g * y, first = d * x, second = first * x;
    sums[0] = sums[0] + d;
    sums[1] = sums[1] + first;
    sums[2] = sums[2] + second;
    sums[3] = fma(second, x, sums[3]);
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void parameter_sums(const Scalar* stats, const Scalar* sums,
                                        Scalar* out) const {
    for (int i = 0; i < 3; ++i) out[2 - i] = stats[i] * sums[i + 1];
    out[3] = sums[0];
  }
  // and of the polynomial x*(c[4] + x^2*(c[5] + x^2*c[6])) that goes through the norms
  template <class Scalar>
  FUSED_ACTS_INLINE void backward_constants(const Scalar* stats, const Scalar* parameters,
                                            const Scalar* sums, Scalar n, Scalar* c) const {
    constants(stats, parameters, c);
    for (int i = 0; i < 3; ++i) {
      const Scalar r = stats[i];
      c[4 + i] =
          static_cast<Scalar>(i + 1) * parameters[2 - i] * (r * (r * (r * (sums[i + 1] / n))));
    }
  }
  FUSED_ACTS_INLINE RowGradients<Real> gradients(Real g, Real x, Real y, Real,
                                                 const Real* c) const {
    const Real square = x * x;
    const Real slope = fma(fma(x * Real(3.0f), c[2], c[1] + c[1]), x, c[0]);
    const Real through = x * fma(fma(c[6], square, c[5]), square, c[4]);
    return {fma(g * y, slope, -through), g * polynomial_of(x, c), g};
  }

 private:
  static FUSED_ACTS_INLINE Real polynomial_of(Real x, const Real* c) {
    return fma(fma(fma(c[2], x, c[1]), x, c[0]), x, c[3]);
  }
};

// Which of three numbers lies between the others.
template <class Scalar>
FUSED_ACTS_INLINE int middle_of(const Scalar (&x)[3]) {
  if ((x[0] < x[1]) == (x[1] < x[2])) return 1;
  return (x[0] < x[1]) == (x[2] < x[0]) ? 0 : 2;
}

// The deviation is of all n values, not of n - 1. Deviations are summed from one of the row's
// values, so that nothing cancels where they are small beside the mean: from the middle one of
// three, as a single one may be far from all others.
template <class M>
struct TopKGeglu {
  using Real = typename M::Real;
  static constexpr int kSums = 2, kStats = 2, kConstants = 1;
  static constexpr int kBackwardSums = 1, kBackwardConstants = 4;
  static constexpr bool kHasWeight = false, kHasParameters = false, kShifted = true;

  double quantile;
  FUSED_ACTS_INLINE explicit TopKGeglu(const RowSettings& s) : quantile(s.number) {}
  FUSED_ACTS_INLINE bool adds_second() const { return false; }

  FUSED_ACTS_INLINE void add(Real x, Real, Real shift, Real* sums) const {
    const Real deviation = x - shift;
    sums[0] = sums[0] + deviation;
    sums[1] = fma(deviation, deviation, sums[1]);
  }
  // mean and standard deviation
  template <class Scalar>
  FUSED_ACTS_INLINE void statistics(const Scalar* sums, Scalar n, Scalar shift,
                                    Scalar* stats) const {
    const Scalar mean = sums[0] / n, variance = fma(-mean, mean, sums[1] / n);
    stats[0] = shift + mean;
    stats[1] = std::sqrt(variance < 0 ? Scalar(0) : variance);
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void constants(const Scalar* stats, const Scalar*, Scalar* c) const {
    c[0] = fma(static_cast<Scalar>(quantile), stats[1], stats[0]);
  }
  FUSED_ACTS_INLINE Real value(Real x, Real y, Real, const Real* c) const {
    return GeluTanh<M>().value(positive_part(x - c[0])) * y;
  }

  FUSED_ACTS_INLINE void add_backward(Real g, Real x, Real y, Real, const Real* c,
                                      Real* sums) const {
    sums[0] = sums[0] + through_cut(x - c[0], g * y).derivative;
  }
  template <class Scalar>
  FUSED_ACTS_INLINE void parameter_sums(const Scalar*, const Scalar*, Scalar*) const {}
  // By the mean, and by the deviation, which has no derivative at 0.
  template <class Scalar>
  FUSED_ACTS_INLINE void backward_constants(const Scalar* stats, const Scalar* parameters,
                                            const Scalar* sums, Scalar n, Scalar* c) const {
    constants(stats, parameters, c);
    c[1] = stats[0];
    c[2] = sums[0] / n;
    c[3] = stats[1] == 0 ? Scalar(0) : static_cast<Scalar>(quantile) * c[2] / stats[1];
  }
  FUSED_ACTS_INLINE RowGradients<Real> gradients(Real g, Real x, Real y, Real,
                                                 const Real* c) const {
    auto [value, derivative] = through_cut(x - c[0], g * y);
    return {derivative - fma(x - c[1], c[3], c[2]), g * value, g};
  }

 private:
  // gelu_tanh(max(t, 0)), and its derivative times seed
  static FUSED_ACTS_INLINE Dual<Real> through_cut(Real t, Real seed) {
    auto [value, derivative] = GeluTanh<M>().dual(positive_part(t));
    return {value, select(positive_or_nan(t), derivative * seed, Real(0.0f))};
  }
};

// Calls visitor(functor) with the functor of a unit over the math M.
template <class M, class Visitor>
auto visit_row_unit(const RowSettings& settings, Visitor&& visitor) {
  switch (settings.unit) {
    case RowUnit::kPolyNorm:
      return visitor(PolyNormGlu<M>(settings));
    case RowUnit::kTopK:
      return visitor(TopKGeglu<M>(settings));
    default:
      return visitor(RmsNormGated<M>(settings));
  }
}

}  // namespace fused_acts
