// What an activation returns: its value, and derivatives as numbers or what takes less to multiply
// by. Variables of these types and of those of elementary_types.h are not const: GCC keeps const
// structs in memory, which loops of registers then write to.
#pragma once

#include "math/primitives.h"

namespace fused_acts {

// {f(x), f'(x)} and {f(x), f'(x), f''(x)}. A derivative is a number, One, Zero, or a number
// Where a condition holds; times(derivative, y) multiplies by it.
template <class Real, class Derivative = Real>
struct Dual {
  Real value;
  Derivative derivative;
};

template <class Real, class Derivative = Real, class Second = Real>
struct Triple {
  Real value;
  Derivative derivative;
  Second second;
};

// Of functions whose second derivative costs nothing.
template <class Real, class Derivative, class Second>
FUSED_ACTS_INLINE Dual<Real, Derivative> without_second(Triple<Real, Derivative, Second> all) {
  return {all.value, all.derivative};
}

// The derivatives of the identity.
struct One {};
struct Zero {};

// A derivative that is 0 where the condition does not hold.
template <class Condition, class Real>
struct Where {
  Condition condition;
  Real derivative;
};

template <class Real>
FUSED_ACTS_INLINE Real times(Real derivative, Real y) {
  return derivative * y;
}
template <class Real>
FUSED_ACTS_INLINE Real times(One, Real y) {
  return y;
}
template <class Real>
FUSED_ACTS_INLINE Real times(Zero, Real) {
  return Real(0.0f);
}
// Not a product with 0: 0 * inf is no gradient.
template <class Condition, class Real>
FUSED_ACTS_INLINE Real times(Where<Condition, Real> where, Real y) {
  return select(where.condition, where.derivative * y, Real(0.0f));
}

// A tangent as far as it moves what the derivative is of: 0 where the derivative is 0 by its kind.
template <class Derivative, class Real>
FUSED_ACTS_INLINE Real moving(Derivative, Real tangent) {
  return tangent;
}
template <class Real>
FUSED_ACTS_INLINE Real moving(Zero, Real) {
  return Real(0.0f);
}
template <class Condition, class Real>
FUSED_ACTS_INLINE Real moving(Where<Condition, Real> where, Real tangent) {
  return select(where.condition, tangent, Real(0.0f));
}

// y where the tangent is not 0, else 0: what stands still adds nothing, be it next to an infinity.
template <class Real>
FUSED_ACTS_INLINE Real if_moving(Real tangent, Real y) {
  return select(positive_or_nan(abs(tangent)), y, Real(0.0f));
}
}  // namespace fused_acts
