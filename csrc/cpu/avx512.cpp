#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// Before any header: what is inlined into the loops below must be compiled for the same instructions.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include "dense.h"
#include "f32x16.h"

namespace fused_acts::cpu {
namespace {

constexpr int64_t kLanes = 16;

// bfloat16 on a processor that lacks its conversion instruction.
struct BFloat16ByHand : BFloat16 {};

__mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

FUSED_ACTS_INLINE F32x16 widen(__m256i x, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FUSED_ACTS_INLINE F32x16 widen(__m256i x, const Float16*) { return _mm512_cvtph_ps(x); }

FUSED_ACTS_INLINE __m256i narrow(F32x16 x, BFloat16*) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
}
FUSED_ACTS_INLINE __m256i narrow(F32x16 x, BFloat16ByHand*) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
FUSED_ACTS_INLINE __m256i narrow(F32x16 x, Float16*) {
  return _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

FUSED_ACTS_INLINE F32x16 load(const float* p) { return _mm512_loadu_ps(p); }
FUSED_ACTS_INLINE F32x16 load(const float* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
FUSED_ACTS_INLINE void store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
FUSED_ACTS_INLINE void store(float* p, F32x16 x, __mmask16 lanes) { _mm512_mask_storeu_ps(p, lanes, x.v); }

template <class T>
FUSED_ACTS_INLINE F32x16 load(const T* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
}
template <class T>
FUSED_ACTS_INLINE F32x16 load(const T* p, __mmask16 lanes) {
  return widen(_mm256_maskz_loadu_epi16(lanes, p), p);
}
template <class T>
FUSED_ACTS_INLINE void store(T* p, F32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x, p));
}
template <class T>
FUSED_ACTS_INLINE void store(T* p, F32x16 x, __mmask16 lanes) {
  _mm256_mask_storeu_epi16(p, lanes, narrow(x, p));
}

template <class T, class F, class G>
struct Loops {
  template <class... Mask>
  static FUSED_ACTS_INLINE void forward_step(const T* gate, const T* up, T* out, Mask... mask) {
    store(out, F{}.value(load(gate, mask...)) * G{}.value(load(up, mask...)), mask...);
  }

  static void forward(const void* gate_data, const void* up_data, void* out_data, int64_t n) {
    const T *gate = static_cast<const T*>(gate_data), *up = static_cast<const T*>(up_data);
    T* out = static_cast<T*>(out_data);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) forward_step(gate + i, up + i, out + i);
    if (i < n) forward_step(gate + i, up + i, out + i, first_lanes(n - i));
  }

  template <class... Mask>
  static FUSED_ACTS_INLINE void backward_step(const T* grad_out, const T* gate, const T* up, T* grad_gate, T* grad_up,
                                              Mask... mask) {
    const F32x16 grad = load(grad_out, mask...);
    const auto f = F{}.dual(load(gate, mask...));
    const auto g = G{}.dual(load(up, mask...));
    store(grad_gate, grad * (f.derivative * g.value), mask...);
    store(grad_up, grad * (f.value * g.derivative), mask...);
  }

  static void backward(const void* grad_out_data, const void* gate_data, const void* up_data, void* grad_gate_data,
                       void* grad_up_data, int64_t n) {
    const T *grad_out = static_cast<const T*>(grad_out_data), *gate = static_cast<const T*>(gate_data);
    const T* up = static_cast<const T*>(up_data);
    T *grad_gate = static_cast<T*>(grad_gate_data), *grad_up = static_cast<T*>(grad_up_data);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      backward_step(grad_out + i, gate + i, up + i, grad_gate + i, grad_up + i);
    if (i < n)
      backward_step(grad_out + i, gate + i, up + i, grad_gate + i, grad_up + i, first_lanes(n - i));
  }
};

template <class T, class M, class Gate>
DenseLoops loops() {
  using L = Loops<T, typename Gate::template F<M>, typename Gate::template G<M>>;
  return {L::forward, L::backward};
}

}  // namespace

DenseLoops avx512_loops(Variant variant, DType dtype) {
  return visit_variant(variant, [&](auto gate) -> DenseLoops {
    using Gate = decltype(gate);
    switch (dtype) {
      case DType::kFloat32:
        return loops<float, Math32<F32x16>, Gate>();
      case DType::kFloat16:
        return loops<Float16, Math16<F32x16>, Gate>();
      case DType::kBFloat16:
        return processor_capability() == Capability::kAvx512Bf16 ? loops<BFloat16, Math16<F32x16>, Gate>()
                                                                 : loops<BFloat16ByHand, Math16<F32x16>, Gate>();
      default:
        return {};
    }
  });
}

}  // namespace fused_acts::cpu

#else

#include "dense.h"

namespace fused_acts::cpu {
DenseLoops avx512_loops(Variant, DType) { return {}; }
}  // namespace fused_acts::cpu

#endif
