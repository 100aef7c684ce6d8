// Storage types on the device: how elements lie in 32-bit words, and the math that computes with them.
#pragma once

#include <cstdint>

#include "f32x2.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the CUDA kernels need compute capability 8.0 or later"
#endif

#define FUSED_ACTS_DEVICE __device__ __forceinline__

namespace fused_acts::cuda {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// kCount elements of T as they lie in memory; a single 16-bit one is the low half of the word.
template <class T, int kCount>
struct Vector {
  static constexpr int kBytes = kCount * sizeof(T);
  static constexpr int kWords = (kBytes + 3) / 4;
  uint32_t words[kWords];
};

// The arithmetic type that a T is converted to, and the math for kCount of them.
template <class T, int kCount>
struct Compute {
  using Scalar = float;
  using Math = Math16<F32x2>;
};
template <class T>
struct Compute<T, 1> {
  using Scalar = float;
  using Math = Math16<float>;
};
template <int kCount>
struct Compute<float, kCount> {
  using Scalar = float;
  using Math = Math32;
};
template <>
struct Compute<float, 1> : Compute<float, 2> {};
template <int kCount>
struct Compute<double, kCount> {
  using Scalar = double;
  using Math = Math64;
};
template <>
struct Compute<double, 1> : Compute<double, 2> {};

// ---- Words to arithmetic and back, rounding once ---------------------------------------------------------------

FUSED_ACTS_DEVICE void unpack_word(BFloat16, uint32_t word, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}
FUSED_ACTS_DEVICE void unpack_word(Float16, uint32_t word, float& low, float& high) {
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(low) : "r"(word));
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(high) : "r"(word));
}
FUSED_ACTS_DEVICE uint32_t pack_word(BFloat16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
FUSED_ACTS_DEVICE uint32_t pack_word(Float16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <class T, int kCount>
FUSED_ACTS_DEVICE void unpack(const Vector<T, kCount>& vector, float (&x)[kCount]) {
  float unused;
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    unpack_word(T{}, vector.words[i / 2], x[i], i + 1 < kCount ? x[i + 1] : unused);
  }
}
template <class T, int kCount>
FUSED_ACTS_DEVICE void pack(const float (&x)[kCount], Vector<T, kCount>& vector) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    vector.words[i / 2] = pack_word(T{}, x[i], i + 1 < kCount ? x[i + 1] : 0.0f);
  }
}

template <int kCount>
FUSED_ACTS_DEVICE void unpack(const Vector<float, kCount>& vector, float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = __uint_as_float(vector.words[i]);
}
template <int kCount>
FUSED_ACTS_DEVICE void pack(const float (&x)[kCount], Vector<float, kCount>& vector) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) vector.words[i] = __float_as_uint(x[i]);
}

template <int kCount>
FUSED_ACTS_DEVICE void unpack(const Vector<double, kCount>& vector, double (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] = __hiloint2double(static_cast<int>(vector.words[2 * i + 1]),
                            static_cast<int>(vector.words[2 * i]));
  }
}
template <int kCount>
FUSED_ACTS_DEVICE void pack(const double (&x)[kCount], Vector<double, kCount>& vector) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    vector.words[2 * i] = static_cast<uint32_t>(__double2loint(x[i]));
    vector.words[2 * i + 1] = static_cast<uint32_t>(__double2hiint(x[i]));
  }
}

// ---- Lanes of an arithmetic type --------------------------------------------------------------------------------

template <class Real>
constexpr int kLanes = sizeof(Real) / sizeof(float);
template <>
constexpr int kLanes<double> = 1;

FUSED_ACTS_DEVICE void gather(const float* x, int, float& real) { real = x[0]; }
FUSED_ACTS_DEVICE void gather(const double* x, int, double& real) { real = x[0]; }
FUSED_ACTS_DEVICE void gather(const float* x, int step, F32x2& real) { real = {x[0], x[step]}; }

FUSED_ACTS_DEVICE void scatter(float real, float* x, int) { x[0] = real; }
FUSED_ACTS_DEVICE void scatter(double real, double* x, int) { x[0] = real; }
FUSED_ACTS_DEVICE void scatter(F32x2 real, float* x, int step) {
  x[0] = real.lo;
  x[step] = real.hi;
}

}  // namespace fused_acts::cuda
