#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// Before any header: what is inlined into the loops below must be compiled for the same
// instructions.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include "avx512.h"

#include <algorithm>

#include "dense.h"

namespace fused_acts::cpu {
namespace {

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
      const auto f = F<A>{}.value(load(access, gate + i));
      if constexpr (Gate::kAlone) {
        store(access, out + i, f);
      } else {
        store(access, out + i, f * G<A>{}.value(load(access, up + i)));
      }
    };
    streams ? stream_each_vector(out, n, step) : for_each_vector<false>(0, n, step);
  }

  static void backward(const void* grad_out_data, const void* gate_data, const void* up_data,
                       void* grad_gate_data, void* grad_up_data, void* product_data, int64_t n,
                       bool streams) {
    const T *grad_out = static_cast<const T*>(grad_out_data),
            *gate = static_cast<const T*>(gate_data);
    const T* up = static_cast<const T*>(up_data);
    T *grad_gate = static_cast<T*>(grad_gate_data), *grad_up = static_cast<T*>(grad_up_data);
    T* product = static_cast<T*>(product_data);
    const auto step = [=](int64_t i, auto access) __attribute__((always_inline)) {
      using A = decltype(access);
      const auto grad = load(access, grad_out + i);
      const auto f = F<A>{}.dual(load(access, gate + i));
      if constexpr (Gate::kAlone) {
        store(access, grad_gate + i, times(f.derivative, grad));
        return;
      }
      const auto g = G<A>{}.dual(load(access, up + i));
      store(access, grad_gate + i, times(f.derivative, grad * g.value));
      store(access, grad_up + i, times(g.derivative, grad * f.value));
      if (product) store(access, product + i, f.value * g.value);
    };
    streams = streams && (Gate::kAlone || misalignment(grad_gate) == misalignment(grad_up)) &&
              (!product || misalignment(grad_gate) == misalignment(product));
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
