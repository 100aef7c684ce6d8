// One access to global memory for each vector of 2 to 32 bytes, at an address that is a multiple of
// its size.
//
// Inputs are read once and left to no one: the non-coherent path, without a line in L1. Outputs
// take the default path, for the next kernel reads them.
#pragma once

#include "storage.cuh"

namespace fused_acts::cuda {

template <class T, int kCount>
FUSED_ACTS_DEVICE void load(const char* address, Vector<T, kCount>& vector) {
  constexpr int kBytes = Vector<T, kCount>::kBytes;
  uint32_t* w = vector.words;
  // volatile keeps all loads of a thread ahead of their uses.
  if constexpr (kBytes == 32) {
#if __CUDA_ARCH__ >= 1000
    asm volatile("ld.global.nc.L1::no_allocate.v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]), "=r"(w[4]), "=r"(w[5]),
                   "=r"(w[6]), "=r"(w[7])
                 : "l"(address));
#endif
  } else if constexpr (kBytes == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(address));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
                 : "=r"(w[0]), "=r"(w[1])
                 : "l"(address));
  } else if constexpr (kBytes == 4) {
    asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(w[0]) : "l"(address));
  } else {
    static_assert(kBytes == 2);
    asm volatile("{ .reg .b16 x; ld.global.nc.L1::no_allocate.b16 x, [%1]; cvt.u32.u16 %0, x; }"
                 : "=r"(w[0])
                 : "l"(address));
  }
}

template <class T, int kCount>
FUSED_ACTS_DEVICE void store(const Vector<T, kCount>& vector, char* address) {
  constexpr int kBytes = Vector<T, kCount>::kBytes;
  const uint32_t* w = vector.words;
  if constexpr (kBytes == 32) {
#if __CUDA_ARCH__ >= 1000
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

}  // namespace fused_acts::cuda
