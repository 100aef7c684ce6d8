// The auto-vectorised loops for calls with options.
#pragma once

#include "../general.h"
#include "clones.h"
#include "general_buffers.h"

namespace fused_acts::cpu {

// One column. Not written out in the loop: the compiler does not vectorise a loop whose body has
// objects with methods of its own.
template <Direction direction, class Gate, class M, class Real>
FUSED_ACTS_INLINE void run_column(const TypedRun<Real>& t, int64_t i) {
  const General<Gate, M> unit(t.parameter[i], t.limit, t.gate_bias[i], t.up_bias[i]);
  if constexpr (direction == Direction::kForward) {
    t.out[i] = unit.forward(t.gate[i], t.up[i]);
  } else if constexpr (direction == Direction::kBackward) {
    const auto grads = unit.backward(t.grad_out[i], t.gate[i], t.up[i]);
    t.out[i] = grads.product;
    t.grad_gate[i] = grads.gate;
    t.grad_up[i] = grads.up;
    t.gate_sum[i] += grads.gate;
    t.up_sum[i] += grads.up;
    t.parameter_sum[i] += grads.parameter;
  } else {
    const auto grads =
        unit.second(t.grad_out[i], t.gate[i], t.up[i], t.gate_tangent[i], t.up_tangent[i]);
    t.out[i] = grads.grad_out;
    t.grad_gate[i] = grads.gate;
    t.grad_up[i] = grads.up;
  }
}

// A run whose operands are all there, in the type of the arithmetic.
template <Direction direction, class Gate, class M, class Real = typename M::Real>
FUSED_ACTS_CLONES void run_columns(const GeneralRun& run) {
  const TypedRun<Real> t(run);
#pragma omp simd
  for (int64_t i = 0; i < t.n; ++i) run_column<direction, Gate, M>(t, i);
}

template <Direction direction, class T, class Gate>
void run_portable(const GeneralRun& run) {
  run_in_buffers<T>(direction, run, run_columns<direction, Gate, typename MathFor<T>::type>);
}

template <class T>
GeneralLoop find_portable_loop(Direction direction, Variant variant) {
  return visit_variant(variant, [&](auto gate) -> GeneralLoop {
    using Gate = decltype(gate);
    switch (direction) {
      case Direction::kForward:
        return run_portable<Direction::kForward, T, Gate>;
      case Direction::kBackward:
        return run_portable<Direction::kBackward, T, Gate>;
      default:
        return run_portable<Direction::kSecond, T, Gate>;
    }
  });
}

// Each arithmetic has a translation unit.
extern template GeneralLoop find_portable_loop<Float16>(Direction, Variant);
extern template GeneralLoop find_portable_loop<BFloat16>(Direction, Variant);
extern template GeneralLoop find_portable_loop<float>(Direction, Variant);
extern template GeneralLoop find_portable_loop<double>(Direction, Variant);

}  // namespace fused_acts::cpu
