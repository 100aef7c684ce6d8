// Floats in the registers of an instruction set: the operations of math/primitives.h. An
// instruction set is a struct such as Avx512 (simd_*.h) with what single registers can do.
//
// All of it, and so whatever is made of Vec, is of one translation unit: a copy of a shared
// function for one instruction set would be a fault on a processor without it.
#pragma once

#include "math/storage.h"

namespace fused_acts {
namespace {

// K registers that go through a computation in step.
template <class Isa, int K>
struct Vec {
  typename Isa::Float v[K];

  Vec() = default;
  FUSED_ACTS_INLINE explicit Vec(float x) {
    for (int i = 0; i < K; ++i) v[i] = Isa::broadcast(x);
  }
};

template <class Isa, int K>
struct Mask {
  typename Isa::Mask v[K];
};

#define FUSED_ACTS_EACH(i, K) _Pragma("GCC unroll 8") for (int i = 0; i < K; ++i)

template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> operator+(Vec<Isa, K> a, Vec<Isa, K> b) {
  FUSED_ACTS_EACH(i, K) a.v[i] = a.v[i] + b.v[i];
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> operator-(Vec<Isa, K> a, Vec<Isa, K> b) {
  FUSED_ACTS_EACH(i, K) a.v[i] = a.v[i] - b.v[i];
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> operator*(Vec<Isa, K> a, Vec<Isa, K> b) {
  FUSED_ACTS_EACH(i, K) a.v[i] = a.v[i] * b.v[i];
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> quotient(Vec<Isa, K> a, Vec<Isa, K> b) {
  FUSED_ACTS_EACH(i, K) a.v[i] = a.v[i] / b.v[i];
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> operator-(Vec<Isa, K> a) {
  FUSED_ACTS_EACH(i, K) a.v[i] = -a.v[i];
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> fma(Vec<Isa, K> a, Vec<Isa, K> b, Vec<Isa, K> c) {
  FUSED_ACTS_EACH(i, K) a.v[i] = Isa::fma(a.v[i], b.v[i], c.v[i]);
  return a;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> abs(Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::abs(x.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> copy_sign(Vec<Isa, K> magnitude, Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::copy_sign(magnitude.v[i], x.v[i]);
  return x;
}

template <class Isa, int K>
FUSED_ACTS_INLINE Mask<Isa, K> operator>(Vec<Isa, K> a, Vec<Isa, K> b) {
  Mask<Isa, K> result;
  FUSED_ACTS_EACH(i, K) result.v[i] = Isa::greater(a.v[i], b.v[i]);
  return result;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Mask<Isa, K> operator>=(Vec<Isa, K> a, Vec<Isa, K> b) {
  Mask<Isa, K> result;
  FUSED_ACTS_EACH(i, K) result.v[i] = Isa::at_least(a.v[i], b.v[i]);
  return result;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Mask<Isa, K> positive_or_nan(Vec<Isa, K> x) {
  Mask<Isa, K> result;
  FUSED_ACTS_EACH(i, K) result.v[i] = Isa::positive_or_nan(x.v[i]);
  return result;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> select(Mask<Isa, K> condition, Vec<Isa, K> a, Vec<Isa, K> b) {
  FUSED_ACTS_EACH(i, K) a.v[i] = Isa::select(condition.v[i], a.v[i], b.v[i]);
  return a;
}

template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp_above(Vec<Isa, K> x, float bound) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::min_or_bound(x.v[i], Isa::broadcast(bound));
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> at_most(Vec<Isa, K> x, Vec<Isa, K> bound) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::min_or_nan(x.v[i], bound.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> at_most(Vec<Isa, K> x, float bound) {
  return at_most(x, Vec<Isa, K>(bound));
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp_below(Vec<Isa, K> x, Vec<Isa, K> bound) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::max_or_nan(x.v[i], bound.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp_below(Vec<Isa, K> x, float bound) {
  return clamp_below(x, Vec<Isa, K>(bound));
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp(Vec<Isa, K> x, Vec<Isa, K> low, Vec<Isa, K> high) {
  return at_most(clamp_below(x, low), high);
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp(Vec<Isa, K> x, float low, float high) {
  return clamp(x, Vec<Isa, K>(low), Vec<Isa, K>(high));
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> clamp_finite(Vec<Isa, K> x) {
  return clamp(x, -1e30f, 1e30f);
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> positive_part(Vec<Isa, K> x, float zero = 0.0f) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::positive_part(x.v[i], Isa::broadcast(zero));
  return x;
}

template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> reciprocal(Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::reciprocal(x.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> reciprocal_of_finite(Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::reciprocal_of_finite(x.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> coarse_reciprocal(Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::coarse_reciprocal(x.v[i]);
  return x;
}

template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> quotient_of_any(Vec<Isa, K> a, Vec<Isa, K> b) {
  return quotient(a, b);
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> reciprocal_of_any(Vec<Isa, K> x) {
  return reciprocal(x);
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> sqrt(Vec<Isa, K> x) {
  FUSED_ACTS_EACH(i, K) x.v[i] = Isa::sqrt(x.v[i]);
  return x;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> rsqrt(Vec<Isa, K> x) {
  return reciprocal(sqrt(x));
}
template <class Isa, int K>
FUSED_ACTS_INLINE Split<Vec<Isa, K>> split(Vec<Isa, K> x) {
  Split<Vec<Isa, K>> parts;
  FUSED_ACTS_EACH(i, K) parts.exponent.v[i] = Isa::split(x.v[i], &parts.mantissa.v[i]);
  return parts;
}

template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> power_of_two(Vec<Isa, K> n) {
  FUSED_ACTS_EACH(i, K) n.v[i] = Isa::power_of_two(n.v[i]);
  return n;
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> scale(Vec<Isa, K> p, Vec<Isa, K> n) {
  if constexpr (Isa::kScales) {
    FUSED_ACTS_EACH(i, K) p.v[i] = Isa::scale(p.v[i], n.v[i]);
    return p;
  } else {
    return scale_in_two_steps(p, n);
  }
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> scale_down(Vec<Isa, K> p, Vec<Isa, K> n) {
  if constexpr (Isa::kScales) {
    FUSED_ACTS_EACH(i, K) p.v[i] = Isa::scale(p.v[i], n.v[i]);
    return p;
  } else {
    return scale_down_in_two_steps(p, n);
  }
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> scale_down_or_flush(Vec<Isa, K> p, Vec<Isa, K> n) {
  if constexpr (Isa::kScales) {
    return scale_down(p, n);
  } else {
    return p * power_of_two(n);
  }
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> rounded_product(Vec<Isa, K> a, Vec<Isa, K> b) {
  if constexpr (Isa::kScales) {
    FUSED_ACTS_EACH(i, K) a.v[i] = Isa::rounded(a.v[i] * b.v[i]);
    return a;
  } else {
    return rounded_product_by_shift(a, b);
  }
}
template <class Isa, int K>
FUSED_ACTS_INLINE Vec<Isa, K> exp2_fast(Vec<Isa, K> t) {
  if constexpr (Isa::kScales) {
    // the scaling takes the floor of its exponent by itself
    Vec<Isa, K> fraction;
    FUSED_ACTS_EACH(i, K) fraction.v[i] = Isa::fraction(t.v[i]);
    return scale_down(
        polynomial(fraction, 1.0f, 0.69304484f, 0.2412802f, 0.052242473f, 0.013426685f), t);
  } else {
    return exp2_by_bits(t);
  }
}

}  // namespace
}  // namespace fused_acts
