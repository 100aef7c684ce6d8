// Storage types and the arithmetic each computes in. Torch-free.
#pragma once

#include <cstdint>

#include "real_math.h"

namespace fused_acts {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The math (real_math.h) that serves a storage type.
template <class T>
struct MathFor;
template <>
struct MathFor<double> {
  using type = Math64;
};
template <>
struct MathFor<float> {
  using type = Math32<float>;
};
template <>
struct MathFor<Float16> {
  using type = Math16<float>;
};
template <>
struct MathFor<BFloat16> {
  using type = Math16<float>;
};

}  // namespace fused_acts
