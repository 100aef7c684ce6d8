// The auto-vectorised flat loops, for any processor.
#include <algorithm>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

template <class F, class G, class Real>
FUSED_ACTS_CLONES void forward_loop(const Real* gate, const Real* up, Real* out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = F{}.value(gate[i]) * G{}.value(up[i]);
}

// Not written out in the loop, which the compiler then would not vectorise.
template <class F, class G, class Real>
FUSED_ACTS_INLINE void backward_element(Real grad, Real gate, Real up, Real* grad_gate,
                                        Real* grad_up, Real* product) {
  const auto f = F{}.dual(gate);
  const auto g = G{}.dual(up);
  *grad_gate = times(f.derivative, grad * g.value);
  *grad_up = times(g.derivative, grad * f.value);
  *product = f.value * g.value;
}

template <class F, class G, class Real>
FUSED_ACTS_CLONES void backward_loop(const Real* grad_out, const Real* gate, const Real* up,
                                     Real* grad_gate, Real* grad_up, Real* product, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    backward_element<F, G>(grad_out[i], gate[i], up[i], grad_gate + i, grad_up + i, product + i);
}

template <class T, class F, class G>
struct Loops {
  static constexpr bool kConverts = !std::is_same_v<T, typename F::Real>;

  static void forward(const void* gate_data, const void* up_data, void* out_data, int64_t n,
                      bool /*non_temporal*/) {
    const T *gate = static_cast<const T*>(gate_data), *up = static_cast<const T*>(up_data);
    T* out = static_cast<T*>(out_data);
    if constexpr (!kConverts) {
      forward_loop<F, G>(gate, up, out, n);
    } else {
      float gate_tile[kTile], up_tile[kTile];
      for (int64_t i = 0; i < n; i += kTile) {
        const int64_t count = std::min(kTile, n - i);
        to_float(gate + i, gate_tile, count);
        to_float(up + i, up_tile, count);
        forward_loop<F, G>(gate_tile, up_tile, gate_tile, count);
        from_float(gate_tile, out + i, count);
      }
    }
  }

  static void backward(const void* grad_out_data, const void* gate_data, const void* up_data,
                       void* grad_gate_data, void* grad_up_data, void* product_data, int64_t n,
                       bool /*non_temporal*/) {
    const T *grad_out = static_cast<const T*>(grad_out_data),
            *gate = static_cast<const T*>(gate_data);
    const T* up = static_cast<const T*>(up_data);
    T *grad_gate = static_cast<T*>(grad_gate_data), *grad_up = static_cast<T*>(grad_up_data);
    T* product = static_cast<T*>(product_data);
    if constexpr (!kConverts) {
      T unwanted[kTile];
      for (int64_t i = 0; i < n; i += kTile)
        backward_loop<F, G>(grad_out + i, gate + i, up + i, grad_gate + i, grad_up + i,
                            product ? product + i : unwanted, std::min(kTile, n - i));
    } else {
      float grad_tile[kTile], gate_tile[kTile], up_tile[kTile];
      for (int64_t i = 0; i < n; i += kTile) {
        const int64_t count = std::min(kTile, n - i);
        to_float(grad_out + i, grad_tile, count);
        to_float(gate + i, gate_tile, count);
        to_float(up + i, up_tile, count);
        backward_loop<F, G>(grad_tile, gate_tile, up_tile, gate_tile, up_tile, grad_tile, count);
        from_float(gate_tile, grad_gate + i, count);
        from_float(up_tile, grad_up + i, count);
        if (product) from_float(grad_tile, product + i, count);
      }
    }
  }
};

}  // namespace

FlatLoops portable_flat_loops(Variant variant, DType dtype) {
  return visit_flat_variant(variant, [&](auto unit) {
    return visit_dtype(dtype, [&](auto t) -> FlatLoops {
      using Unit = decltype(unit);
      if constexpr (Unit::kIsUnary) {
        return {};
      } else {
        using M = typename MathFor<decltype(t)>::type;
        using L = Loops<decltype(t), typename Unit::template F<M>, typename Unit::template G<M>>;
        return {L::forward, L::backward};
      }
    });
  });
}

}  // namespace fused_acts::cpu
