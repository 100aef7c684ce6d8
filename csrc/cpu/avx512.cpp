#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// Before any header: what is inlined into the loops below must be compiled for the same
// instructions.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include <algorithm>

#include "dense.h"
#include "f32xn.h"

namespace fused_acts::cpu {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kTogether =
    4;  // registers in step; more do not fit the register file with a GELU's constants

// bfloat16 on a processor that lacks its conversion instruction.
struct BFloat16ByHand : BFloat16 {};

FUSED_ACTS_INLINE __m512 widen(__m256i x, const BFloat16*) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FUSED_ACTS_INLINE __m512 widen(__m256i x, const Float16*) { return _mm512_cvtph_ps(x); }

FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16*) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, BFloat16ByHand*) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
FUSED_ACTS_INLINE __m256i narrow(__m512 x, Float16*) {
  return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// How a step of a loop reads and writes: all lanes of K registers, past the caches if so wanted, or
// the first n of one.
template <int K, bool kStreams>
struct Whole {
  static constexpr int kRegisters = K;

  static FUSED_ACTS_INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static FUSED_ACTS_INLINE void store(float* p, __m512 x) {
    kStreams ? _mm512_stream_ps(p, x) : _mm512_storeu_ps(p, x);
  }
  template <class T>
  static FUSED_ACTS_INLINE __m512 load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }
  template <class T>
  static FUSED_ACTS_INLINE void store(T* p, __m512 x) {
    auto* target = reinterpret_cast<__m256i*>(p);
    kStreams ? _mm256_stream_si256(target, narrow(x, p))
             : _mm256_storeu_si256(target, narrow(x, p));
  }
};

struct Partial {
  static constexpr int kRegisters = 1;
  __mmask16 lanes;

  explicit Partial(int64_t n) : lanes(static_cast<__mmask16>((1u << n) - 1)) {}
  FUSED_ACTS_INLINE __m512 load(const float* p) const { return _mm512_maskz_loadu_ps(lanes, p); }
  FUSED_ACTS_INLINE void store(float* p, __m512 x) const { _mm512_mask_storeu_ps(p, lanes, x); }
  template <class T>
  FUSED_ACTS_INLINE __m512 load(const T* p) const {
    return widen(_mm256_maskz_loadu_epi16(lanes, p), p);
  }
  template <class T>
  FUSED_ACTS_INLINE void store(T* p, __m512 x) const {
    _mm256_mask_storeu_epi16(p, lanes, narrow(x, p));
  }
};

template <class Access, class T>
FUSED_ACTS_INLINE auto load(const Access& access, const T* p) {
  F32xN<Access::kRegisters> result;
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i) result.v[i] = access.load(p + i * kLanes);
  return result;
}
template <class Access, class T, class Reals>
FUSED_ACTS_INLINE void store(const Access& access, T* p, Reals x) {
#pragma GCC unroll 8
  for (int i = 0; i < Access::kRegisters; ++i) access.store(p + i * kLanes, x.v[i]);
}

// Calls step(i, access) over n elements: several registers at a time, then single ones, then the
// rest.
template <bool kStreams, class Step>
FUSED_ACTS_INLINE void for_each_vector(int64_t i, int64_t n, Step step) {
  for (; i + kTogether * kLanes <= n; i += kTogether * kLanes)
    step(i, Whole<kTogether, kStreams>{});
  for (; i + kLanes <= n; i += kLanes) step(i, Whole<1, kStreams>{});
  if (i < n) step(i, Partial(n - i));
}

// Elements to the next address that streaming stores of T can begin at.
template <class T>
int64_t misalignment(const T* p) {
  return (-reinterpret_cast<uintptr_t>(p) & (kLanes * sizeof(T) - 1)) / sizeof(T);
}

template <class T, class Step>
FUSED_ACTS_INLINE void stream_each_vector(const T* out, int64_t n, Step step) {
  const int64_t head = std::min(misalignment(out), n);
  if (head > 0) step(0, Partial(head));
  for_each_vector<true>(head, n, step);
  _mm_sfence();  // orders these stores before whatever tells other threads that they are done
}

template <class T, template <class> class Math, class Gate>
struct Loops {
  template <class Access>
  using F = typename Gate::template F<Math<F32xN<Access::kRegisters>>>;
  template <class Access>
  using G = typename Gate::template G<Math<F32xN<Access::kRegisters>>>;

  static void forward(const void* gate_data, const void* up_data, void* out_data, int64_t n,
                      bool streams) {
    const T *gate = static_cast<const T*>(gate_data), *up = static_cast<const T*>(up_data);
    T* out = static_cast<T*>(out_data);
    const auto step = [=](int64_t i, auto access) __attribute__((always_inline)) {
      using A = decltype(access);
      store(access, out + i,
            F<A>{}.value(load(access, gate + i)) * G<A>{}.value(load(access, up + i)));
    };
    streams ? stream_each_vector(out, n, step) : for_each_vector<false>(0, n, step);
  }

  static void backward(const void* grad_out_data, const void* gate_data, const void* up_data,
                       void* grad_gate_data, void* grad_up_data, int64_t n, bool streams) {
    const T *grad_out = static_cast<const T*>(grad_out_data),
            *gate = static_cast<const T*>(gate_data);
    const T* up = static_cast<const T*>(up_data);
    T *grad_gate = static_cast<T*>(grad_gate_data), *grad_up = static_cast<T*>(grad_up_data);
    const auto step = [=](int64_t i, auto access) __attribute__((always_inline)) {
      using A = decltype(access);
      const auto grad = load(access, grad_out + i);
      const auto f = F<A>{}.dual(load(access, gate + i));
      const auto g = G<A>{}.dual(load(access, up + i));
      store(access, grad_gate + i, times(f.derivative, grad * g.value));
      store(access, grad_up + i, times(g.derivative, grad * f.value));
    };
    streams = streams && misalignment(grad_gate) == misalignment(grad_up);
    streams ? stream_each_vector(grad_gate, n, step) : for_each_vector<false>(0, n, step);
  }
};

template <class T, template <class> class Math, class Gate>
DenseLoops loops() {
  return {Loops<T, Math, Gate>::forward, Loops<T, Math, Gate>::backward};
}

}  // namespace

DenseLoops avx512_loops(Variant variant, DType dtype) {
  return visit_common_variant(variant, [&](auto gate) -> DenseLoops {
    using Gate = decltype(gate);
    switch (dtype) {
      case DType::kFloat32:
        return loops<float, Math32, Gate>();
      case DType::kFloat16:
        return loops<Float16, Math16, Gate>();
      case DType::kBFloat16:
        return processor_capability() == Capability::kAvx512Bf16
                   ? loops<BFloat16, Math16, Gate>()
                   : loops<BFloat16ByHand, Math16, Gate>();
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
