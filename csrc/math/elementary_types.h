// What the maths of elementary.h return, and constants they share.
#pragma once

#include <limits>

#include "math/primitives.h"

namespace fused_acts {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kSqrt1_2 = 0.7071067811865476;
constexpr double kRsqrt2Pi = 0.3989422804014327;
constexpr float kFloatInfinity = std::numeric_limits<float>::infinity();
constexpr float kFloatNaN = std::numeric_limits<float>::quiet_NaN();

template <class Real>
struct SigmoidProduct {
  Real product, sigmoid;  // x*sigmoid is a normal number also where the sigmoid is not
};

template <class Real>
struct NegativeExp {
  Real power, scale;  // e^-z = power * scale, where the scale alone may be too small for a product
};

template <class Real>
struct Exponential {
  Real exp, expm1;  // e^-z, and e^-z - 1 without cancellation
};

template <class Real>
struct TanhParts {
  Real tanh, exp, weight;  // tanh(x), e = e^-2|x|, and 1 / (1 + e)
};

template <class Real>
struct NormalTail {         // of a standard normal Z
  Real factor_a, factor_b;  // whose product is |x|*P(Z > |x|)
  Real tail, density;       // P(Z > |x|), and the density of Z at x
};

}  // namespace fused_acts
