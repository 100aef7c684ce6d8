// Storage types on the device: how elements lie in 32-bit words, and the math that computes with
// them. Elements are converted one at a time, as the arithmetic needs them, and rounded once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/f32x2.cuh"
#include "math/storage.h"
#include "math/variants.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "the CUDA kernels need compute capability 8.0 or later"
#endif

#define FUSED_ACTS_DEVICE __device__ __forceinline__

namespace fused_acts::cuda {

#ifdef FUSED_ACTS_HAS_32_BYTE_ACCESSES
constexpr bool kHas32ByteAccesses = true;
#else
constexpr bool kHas32ByteAccesses = false;
#endif

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
// (flat_kernels.cuh).
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

// ---- One access to global memory for each vector ----------------------------------------------
//
// At an address that is a multiple of its size. Inputs are read once: without a line in L1, but by
// the coherent path, for the same launch may write over them. Outputs take the default path, for
// the next kernel reads them.

template <class T, int kCount>
FUSED_ACTS_DEVICE void load(const char* address, Vector<T, kCount>& vector) {
  constexpr int kBytes = Vector<T, kCount>::kBytes;
  uint32_t* w = vector.words;
  // volatile keeps all loads of a thread ahead of their uses.
  if constexpr (kBytes == 32) {
#ifdef FUSED_ACTS_HAS_32_BYTE_ACCESSES
    asm volatile("ld.global.L1::no_allocate.v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]), "=r"(w[4]), "=r"(w[5]),
                   "=r"(w[6]), "=r"(w[7])
                 : "l"(address));
#endif
  } else if constexpr (kBytes == 16) {
    asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(address));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1])
                 : "l"(address));
  } else if constexpr (kBytes == 4) {
    asm volatile("ld.global.L1::no_allocate.b32 %0, [%1];" : "=r"(w[0]) : "l"(address));
  } else {
    static_assert(kBytes == 2);
    asm volatile("{ .reg .b16 x; ld.global.L1::no_allocate.b16 x, [%1]; cvt.u32.u16 %0, x; }"
                 : "=r"(w[0])
                 : "l"(address));
  }
}

// The same through L1: what follows shares its sectors.
template <class T, int kCount>
FUSED_ACTS_DEVICE void load_cached(const char* address, Vector<T, kCount>& vector) {
  constexpr int kBytes = Vector<T, kCount>::kBytes;
  static_assert(kBytes == 16 || kBytes == 32);
  uint32_t* w = vector.words;
  if constexpr (kBytes == 16) {
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(address));
  } else {
#ifdef FUSED_ACTS_HAS_32_BYTE_ACCESSES
    asm volatile("ld.global.v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]), "=r"(w[4]), "=r"(w[5]),
                   "=r"(w[6]), "=r"(w[7])
                 : "l"(address));
#endif
  }
}

// One number of an array of T, or of the type of the arithmetic.
template <class T>
FUSED_ACTS_DEVICE auto number_at(const void* data, bool in_real, int64_t index) {
  Vector<T, 1> value;
  using Real = decltype(element(value, 0));
  if (in_real) return static_cast<const Real*>(data)[index];
  load(static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)), value);
  return element(value, 0);
}

template <class T, int kCount>
FUSED_ACTS_DEVICE void store(const Vector<T, kCount>& vector, char* address) {
  constexpr int kBytes = Vector<T, kCount>::kBytes;
  const uint32_t* w = vector.words;
  if constexpr (kBytes == 32) {
#ifdef FUSED_ACTS_HAS_32_BYTE_ACCESSES
    asm volatile("st.global.v8.b32 [%8], {%0, %1, %2, %3, %4, %5, %6, %7};" ::"r"(w[0]), "r"(w[1]),
                 "r"(w[2]), "r"(w[3]), "r"(w[4]), "r"(w[5]), "r"(w[6]), "r"(w[7]), "l"(address)
                 : "memory");
#endif
  } else if constexpr (kBytes == 16) {
    *reinterpret_cast<uint4*>(address) = make_uint4(w[0], w[1], w[2], w[3]);
  } else if constexpr (kBytes == 8) {
    *reinterpret_cast<uint2*>(address) = make_uint2(w[0], w[1]);
  } else if constexpr (kBytes == 4) {
    *reinterpret_cast<uint32_t*>(address) = w[0];
  } else {
    static_assert(kBytes == 2);
    *reinterpret_cast<uint16_t*>(address) = static_cast<uint16_t>(w[0]);
  }
}

// kColumns neighbouring columns of gate and up, or of their gradients: two vectors, or a single
// one where the columns of gate and up alternate.
template <class T, int kColumns, bool kInterleaved>
struct GateUp {
  Vector<T, kColumns> gate_vector, up_vector;

  FUSED_ACTS_DEVICE void load_from(const char* gate, const char* up) {
    load(gate, gate_vector);
    load(up, up_vector);
  }
  template <class Real>
  FUSED_ACTS_DEVICE Real gate(int i) const {
    return get<Real>(gate_vector, i);
  }
  template <class Real>
  FUSED_ACTS_DEVICE Real up(int i) const {
    return get<Real>(up_vector, i);
  }
  template <class Real>
  FUSED_ACTS_DEVICE void set_both(int i, Real gate, Real up) {
    set(gate_vector, i, gate);
    set(up_vector, i, up);
  }
  FUSED_ACTS_DEVICE void store_to(char* gate, char* up, bool needs_gate, bool needs_up) const {
    if (needs_gate) store(gate_vector, gate);
    if (needs_up) store(up_vector, up);
  }
};

template <class T, int kColumns>
struct GateUp<T, kColumns, true> {
  Vector<T, 2 * kColumns> vector;

  FUSED_ACTS_DEVICE void load_from(const char* gate, const char*) { load(gate, vector); }
  template <class Real>
  FUSED_ACTS_DEVICE Real gate(int i) const {
    return get<Real>(vector, 2 * i, 2);
  }
  template <class Real>
  FUSED_ACTS_DEVICE Real up(int i) const {
    return get<Real>(vector, 2 * i + 1, 2);
  }
  template <class Real>
  FUSED_ACTS_DEVICE void set_both(int i, Real gate, Real up) {
    set_pair(vector, 2 * i, gate, up);
  }
  FUSED_ACTS_DEVICE void set_both(int i, F32x2 gate, F32x2 up) {
    set_pair(vector, 2 * i, gate.lo, up.lo);
    set_pair(vector, 2 * i + 2, gate.hi, up.hi);
  }
  FUSED_ACTS_DEVICE void store_to(char* gate, char*, bool, bool) const { store(vector, gate); }
};

// ---- Columns of gate and up that alternate in two vectors ---------------------------------------

// From {g0 u0 g1 u1 ...} in both to gate and up.
template <class T, int kCount>
FUSED_ACTS_DEVICE void deinterleave(Vector<T, kCount>& first, Vector<T, kCount>& second) {
  constexpr int kWords = Vector<T, kCount>::kBytes / 4;
  Vector<T, kCount> gate, up;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const uint32_t* const from = 2 * i < kWords ? first.words : second.words;
    const uint32_t a = from[2 * i % kWords], b = from[2 * i % kWords + 1];
    gate.words[i] = sizeof(T) == 2 ? __byte_perm(a, b, 0x5410) : a;
    up.words[i] = sizeof(T) == 2 ? __byte_perm(a, b, 0x7632) : b;
  }
  first = gate;
  second = up;
}

// And back.
template <class T, int kCount>
FUSED_ACTS_DEVICE void interleave(Vector<T, kCount>& first, Vector<T, kCount>& second) {
  constexpr int kWords = Vector<T, kCount>::kBytes / 4;
  Vector<T, kCount> both[2];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const uint32_t g = first.words[i], u = second.words[i];
    uint32_t* const to = both[2 * i / kWords].words;
    to[2 * i % kWords] = sizeof(T) == 2 ? __byte_perm(g, u, 0x5410) : g;
    to[2 * i % kWords + 1] = sizeof(T) == 2 ? __byte_perm(g, u, 0x7632) : u;
  }
  first = both[0];
  second = both[1];
}

}  // namespace fused_acts::cuda
