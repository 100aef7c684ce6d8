// Storage types, the arithmetic each computes in, and the step from a dtype to its type.
#pragma once

#include <cstdint>

#include "math/elementary.h"

namespace fused_acts {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The math (elementary.h) that serves a storage type.
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

enum class DType : int { kFloat64, kFloat32, kFloat16, kBFloat16 };

constexpr int64_t dtype_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// The size of the type that a dtype is computed in.
constexpr int64_t real_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// Calls visitor(T{}) with the storage type T of a dtype.
template <class Visitor>
auto visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::kFloat64:
      return visitor(double{});
    case DType::kFloat32:
      return visitor(float{});
    case DType::kFloat16:
      return visitor(Float16{});
    default:
      return visitor(BFloat16{});
  }
}

}  // namespace fused_acts
