// Arithmetic with derivatives of the kinds in dual.h: what is 0 or 1 by its kind costs nothing, and
// what nobody asked for is not computed. A number is a derivative too.
#pragma once

#include <type_traits>

#include "math/dual.h"

namespace fused_acts {

// In the place of a derivative that nobody asked for, and of what is made of it.
struct Unasked {};

template <class D>
constexpr bool kIsWhere = false;
template <class Condition, class Real>
constexpr bool kIsWhere<Where<Condition, Real>> = true;

template <class D, class E>
constexpr bool kIsUnasked = std::is_same_v<D, Unasked> || std::is_same_v<E, Unasked>;

template <class Real, class D>
FUSED_ACTS_INLINE Real as_number(D d) {
  if constexpr (std::is_same_v<D, Zero>) {
    return Real(0.0f);
  } else if constexpr (std::is_same_v<D, One>) {
    return Real(1.0f);
  } else if constexpr (kIsWhere<D>) {
    return select(d.condition, d.derivative, Real(0.0f));
  } else {
    return d;
  }
}

// -d
template <class Real, class D>
FUSED_ACTS_INLINE auto negative(D d) {
  if constexpr (std::is_same_v<D, Unasked> || std::is_same_v<D, Zero>) {
    return d;
  } else if constexpr (kIsWhere<D>) {
    return D{d.condition, -d.derivative};
  } else {
    return -as_number<Real>(d);
  }
}

// c * d
template <class Real, class C, class D>
FUSED_ACTS_INLINE auto product(C c, D d) {
  if constexpr (kIsUnasked<C, D>) {
    return Unasked{};
  } else if constexpr (std::is_same_v<C, Zero> || std::is_same_v<D, Zero>) {
    return Zero{};
  } else if constexpr (std::is_same_v<C, One>) {
    return d;
  } else if constexpr (std::is_same_v<D, One>) {
    return c;
  } else if constexpr (kIsWhere<C>) {
    return C{c.condition, c.derivative * as_number<Real>(d)};
  } else if constexpr (kIsWhere<D>) {
    return D{d.condition, c * d.derivative};
  } else {
    return c * d;
  }
}

// d + e
template <class Real, class D, class E>
FUSED_ACTS_INLINE auto sum(D d, E e) {
  if constexpr (kIsUnasked<D, E>) {
    return Unasked{};
  } else if constexpr (std::is_same_v<D, Zero>) {
    return e;
  } else if constexpr (std::is_same_v<E, Zero>) {
    return d;
  } else {
    return as_number<Real>(d) + as_number<Real>(e);
  }
}

// d - e
template <class Real, class D, class E>
FUSED_ACTS_INLINE auto difference(D d, E e) {
  if constexpr (std::is_same_v<D, E> && (std::is_same_v<D, Zero> || std::is_same_v<D, One>)) {
    return Zero{};
  } else if constexpr (kIsUnasked<D, E> || std::is_same_v<D, Zero> || std::is_same_v<E, Zero>) {
    return sum<Real>(d, negative<Real>(e));
  } else {
    return as_number<Real>(d) - as_number<Real>(e);
  }
}

// c * d + e
template <class Real, class C, class D, class E>
FUSED_ACTS_INLINE auto fused(C c, D d, E e) {
  constexpr bool kOnlySum = std::is_same_v<C, One> || std::is_same_v<D, One>;
  if constexpr (kIsUnasked<C, D> || kIsUnasked<E, E>) {
    return Unasked{};
  } else if constexpr (kOnlySum || std::is_same_v<decltype(product<Real>(c, d)), Zero> ||
                       std::is_same_v<E, Zero>) {
    return sum<Real>(product<Real>(c, d), e);
  } else {
    return fma(as_number<Real>(c), as_number<Real>(d), as_number<Real>(e));
  }
}

}  // namespace fused_acts
