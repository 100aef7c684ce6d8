// Storage types on the device: how elements lie in 32-bit words, and the math that computes with
// them. Elements are converted one at a time, as the arithmetic needs them, and rounded once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "f32x2.cuh"
#include "numeric.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the CUDA kernels need compute capability 8.0 or later"
#endif

#define FUSED_ACTS_DEVICE __device__ __forceinline__

namespace fused_acts::cuda {

// The math that computes kCount elements of T: 16-bit elements go through it in pairs.
template <class T, int kCount>
using MathOf =
    std::conditional_t<sizeof(T) == 2 && kCount % 2 == 0, Math16<F32x2>, typename MathFor<T>::type>;

// kCount elements of T as they lie in memory; a single 16-bit one is the low half of its word.
template <class StorageType, int kCount>
struct Vector {
  using T = StorageType;
  static constexpr int kBytes = kCount * sizeof(T);
  uint32_t words[(kBytes + 3) / 4];
};

// ---- One element out of a vector --------------------------------------------------------------

template <int kCount>
FUSED_ACTS_DEVICE float element(const Vector<BFloat16, kCount>& x, int i) {
  const uint32_t word = x.words[i / 2];
  return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
}
template <int kCount>
FUSED_ACTS_DEVICE float element(const Vector<Float16, kCount>& x, int i) {
  const auto half = static_cast<uint16_t>(x.words[i / 2] >> (i % 2 == 0 ? 0 : 16));
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
template <int kCount>
FUSED_ACTS_DEVICE float element(const Vector<float, kCount>& x, int i) {
  return __uint_as_float(x.words[i]);
}
template <int kCount>
FUSED_ACTS_DEVICE double element(const Vector<double, kCount>& x, int i) {
  return __hiloint2double(static_cast<int>(x.words[2 * i + 1]), static_cast<int>(x.words[2 * i]));
}

template <class Real>
constexpr int kLanes = std::is_same_v<Real, F32x2> ? 2 : 1;

// What starts at element i: one element, or two that are `step` apart.
template <class Real, class T, int kCount>
FUSED_ACTS_DEVICE Real get(const Vector<T, kCount>& x, int i, int step = 1) {
  if constexpr (kLanes<Real> == 2) {
    return {element(x, i), element(x, i + step)};
  } else {
    return element(x, i);
  }
}

// ---- Elements into a vector -------------------------------------------------------------------

// The elements i and i + 1, i even. volatile keeps conversions on their side of a fence
// (kernels.cuh).
template <int kCount>
FUSED_ACTS_DEVICE void set_pair(Vector<BFloat16, kCount>& x, int i, float low, float high) {
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x.words[i / 2]) : "f"(high), "f"(low));
}
template <int kCount>
FUSED_ACTS_DEVICE void set_pair(Vector<Float16, kCount>& x, int i, float low, float high) {
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x.words[i / 2]) : "f"(high), "f"(low));
}
template <int kCount>
FUSED_ACTS_DEVICE void set_pair(Vector<float, kCount>& x, int i, float low, float high) {
  x.words[i] = __float_as_uint(low);
  x.words[i + 1] = __float_as_uint(high);
}
template <int kCount>
FUSED_ACTS_DEVICE void set_pair(Vector<double, kCount>& x, int i, double low, double high) {
  x.words[2 * i] = static_cast<uint32_t>(__double2loint(low));
  x.words[2 * i + 1] = static_cast<uint32_t>(__double2hiint(low));
  x.words[2 * i + 2] = static_cast<uint32_t>(__double2loint(high));
  x.words[2 * i + 3] = static_cast<uint32_t>(__double2hiint(high));
}

// What starts at element i.
template <class T, int kCount>
FUSED_ACTS_DEVICE void set(Vector<T, kCount>& x, int i, F32x2 value) {
  set_pair(x, i, value.lo, value.hi);
}
template <class T>
FUSED_ACTS_DEVICE void set(Vector<T, 1>& x, int, float value) {
  set_pair(x, 0, value, 0.0f);
}
template <int kCount>
FUSED_ACTS_DEVICE void set(Vector<float, kCount>& x, int i, float value) {
  x.words[i] = __float_as_uint(value);
}
FUSED_ACTS_DEVICE void set(Vector<float, 1>& x, int, float value) {
  x.words[0] = __float_as_uint(value);
}
template <int kCount>
FUSED_ACTS_DEVICE void set(Vector<double, kCount>& x, int i, double value) {
  x.words[2 * i] = static_cast<uint32_t>(__double2loint(value));
  x.words[2 * i + 1] = static_cast<uint32_t>(__double2hiint(value));
}

}  // namespace fused_acts::cuda
