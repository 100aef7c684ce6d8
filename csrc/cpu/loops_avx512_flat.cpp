// The flat loops for AVX-512. No symbol but the last function leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX512

// clang-format off: before the headers that it is for
#include "cpu/target_avx512.h"
// clang-format on

#include "cpu/access_avx512.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// Registers in step; more do not fit the register file with a GELU's constants.
constexpr int kUnroll = 4;

// Calls step(i, access) over n elements: several registers at a time, then single ones, then the
// rest.
template <bool kNonTemporal, class Step>
FUSED_ACTS_INLINE void for_each_vector(int64_t i, int64_t n, Step step) {
  for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) step(i, Full<kUnroll, kNonTemporal>{});
  for (; i + kLanes <= n; i += kLanes) step(i, Full<1, kNonTemporal>{});
  if (i < n) step(i, Masked(n - i));
}

// Elements to the next address that non-temporal stores of T can begin at.
template <class T>
FUSED_ACTS_INLINE int64_t misalignment(const T* p) {
  return (-reinterpret_cast<uintptr_t>(p) & (sizeof(__m512i) - 1)) / sizeof(T);
}

template <class T, class Step>
FUSED_ACTS_INLINE void for_each_vector_non_temporal(const T* out, int64_t n, Step step) {
  int64_t head = misalignment(out);
  if (head > n) head = n;
  if (head > kLanes) step(0, Masked(kLanes));
  if (head > 0) step(head > kLanes ? kLanes : 0, Masked(head > kLanes ? head - kLanes : head));
  for_each_vector<true>(head, n, step);
  _mm_sfence();  // orders these stores before whatever tells other threads that they are done
}

template <class T, template <class> class Math, class Unit>
struct Loops {
  template <class Access>
  using F = typename Unit::template F<Math<F32xN<Access::kRegisters>>>;
  template <class Access>
  using G = typename Unit::template G<Math<F32xN<Access::kRegisters>>>;

  static void forward(const void* gate_data, const void* up_data, void* out_data, int64_t n,
                      bool non_temporal) {
    const T *gate = static_cast<const T*>(gate_data), *up = static_cast<const T*>(up_data);
    T* out = static_cast<T*>(out_data);
    const auto step = [=](int64_t i, auto access) FUSED_ACTS_SIMD {
      using A = decltype(access);
      const auto f = F<A>{}.value(load_in_any_order(access, gate + i));
      if constexpr (Unit::kIsUnary) {
        store_in_any_order(access, out + i, f);
      } else {
        store_in_any_order(access, out + i, f * G<A>{}.value(load_in_any_order(access, up + i)));
      }
    };
    non_temporal ? for_each_vector_non_temporal(out, n, step) : for_each_vector<false>(0, n, step);
  }

  static void forward_pairs(const void* gate_up_data, void* out_data, int64_t n,
                            bool non_temporal) {
    const T* gate_up = static_cast<const T*>(gate_up_data);
    T* out = static_cast<T*>(out_data);
    const auto step = [=](int64_t i, auto access) FUSED_ACTS_SIMD {
      using A = decltype(access);
      const auto [gate, up] = load_pairs(access, gate_up + 2 * i);
      store(access, out + i, F<A>{}.value(gate) * G<A>{}.value(up));
    };
    non_temporal ? for_each_vector_non_temporal(out, n, step) : for_each_vector<false>(0, n, step);
  }

  static void backward(const void* grad_out_data, const void* gate_data, const void* up_data,
                       void* grad_gate_data, void* grad_up_data, void* product_data, int64_t n,
                       bool non_temporal) {
    const T *grad_out = static_cast<const T*>(grad_out_data),
            *gate = static_cast<const T*>(gate_data);
    const T* up = static_cast<const T*>(up_data);
    T *grad_gate = static_cast<T*>(grad_gate_data), *grad_up = static_cast<T*>(grad_up_data);
    T* product = static_cast<T*>(product_data);
    const auto step = [=](int64_t i, auto access) FUSED_ACTS_SIMD {
      using A = decltype(access);
      const auto grad = load_in_any_order(access, grad_out + i);
      const auto f = F<A>{}.dual(load_in_any_order(access, gate + i));
      if constexpr (Unit::kIsUnary) {
        store_in_any_order(access, grad_gate + i, times(f.derivative, grad));
        return;
      }
      const auto g = G<A>{}.dual(load_in_any_order(access, up + i));
      store_in_any_order(access, grad_gate + i, times(f.derivative, grad * g.value));
      store_in_any_order(access, grad_up + i, times(g.derivative, grad * f.value));
      if (product) store_in_any_order(access, product + i, f.value * g.value);
    };
    non_temporal = non_temporal &&
                   (Unit::kIsUnary || misalignment(grad_gate) == misalignment(grad_up)) &&
                   (!product || misalignment(grad_gate) == misalignment(product));
    non_temporal ? for_each_vector_non_temporal(grad_gate, n, step)
                 : for_each_vector<false>(0, n, step);
  }

  static void backward_pairs(const void* grad_out_data, const void* gate_up_data, void* grads_data,
                             void* product_data, int64_t n) {
    const T *grad_out = static_cast<const T*>(grad_out_data),
            *gate_up = static_cast<const T*>(gate_up_data);
    T *grads = static_cast<T*>(grads_data), *product = static_cast<T*>(product_data);
    for_each_vector<false>(0, n, [=](int64_t i, auto access) FUSED_ACTS_SIMD {
      using A = decltype(access);
      const auto grad = load(access, grad_out + i);
      const auto [gate, up] = load_pairs(access, gate_up + 2 * i);
      const auto f = F<A>{}.dual(gate);
      const auto g = G<A>{}.dual(up);
      if (product) store(access, product + i, f.value * g.value);
      store_pairs(access, grads + 2 * i, F32xN<A::kRegisters>(times(f.derivative, grad * g.value)),
                  F32xN<A::kRegisters>(times(g.derivative, grad * f.value)));
    });
  }
};

template <class T, template <class> class Math, class Unit>
FlatLoops loops() {
  using L = Loops<T, Math, Unit>;
  if constexpr (Unit::kIsUnary) {
    return {L::forward, L::backward, nullptr, nullptr};
  } else {
    return {L::forward, L::backward, L::forward_pairs, L::backward_pairs};
  }
}

}  // namespace

FlatLoops avx512_flat_loops(Variant variant, DType dtype, bool bf16) {
  return visit_flat_variant(variant, [&](auto unit) -> FlatLoops {
    using Unit = decltype(unit);
    switch (dtype) {
      case DType::kFloat32:
        return loops<float, Math32, Unit>();
      case DType::kFloat16:
        return loops<Float16, Math16, Unit>();
      case DType::kBFloat16:
        return bf16 ? loops<BFloat16, Math16, Unit>() : loops<BFloat16ByHand, Math16, Unit>();
      default:
        return {};
    }
  });
}

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
