// The auto-vectorised row loops, for any processor.
#pragma once

#include "cpu/isa.h"
#include "cpu/staging.h"
#include "math/unit.h"

namespace fused_acts::cpu {
namespace {

// RowRun with the types of its operands.
template <class Real>
struct TypedRun {
  int64_t n;
  Real limit;
  const Real *gate_bias, *up_bias, *parameter;
  const Real *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  Real *out, *grad_gate, *grad_up;
  Real *gate_sum, *up_sum, *parameter_sum;

  explicit TypedRun(const RowRun& r)
      : n(r.n),
        limit(static_cast<Real>(r.limit)),
        gate_bias(static_cast<const Real*>(r.gate_bias)),
        up_bias(static_cast<const Real*>(r.up_bias)),
        parameter(static_cast<const Real*>(r.parameter)),
        gate(static_cast<const Real*>(r.gate)),
        up(static_cast<const Real*>(r.up)),
        grad_out(static_cast<const Real*>(r.grad_out)),
        gate_tangent(static_cast<const Real*>(r.gate_tangent)),
        up_tangent(static_cast<const Real*>(r.up_tangent)),
        out(static_cast<Real*>(r.out)),
        grad_gate(static_cast<Real*>(r.grad_gate)),
        grad_up(static_cast<Real*>(r.grad_up)),
        gate_sum(static_cast<Real*>(r.gate_sum)),
        up_sum(static_cast<Real*>(r.up_sum)),
        parameter_sum(static_cast<Real*>(r.parameter_sum)) {}
};

// One column. Not written out in the loop: the compiler does not vectorise a loop whose body has
// objects with methods of its own.
template <Direction direction, class Unit, class M, class Real>
FUSED_ACTS_INLINE void run_column(const TypedRun<Real>& t, int64_t i) {
  const GatedUnit<Unit, M> unit(t.parameter[i], t.limit, t.gate_bias[i], t.up_bias[i]);
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
        unit.double_backward(t.grad_out[i], t.gate[i], t.up[i], t.gate_tangent[i], t.up_tangent[i]);
    t.out[i] = grads.grad_out;
    t.grad_gate[i] = grads.gate;
    t.grad_up[i] = grads.up;
  }
}

// A run whose operands are all there, in the type of the arithmetic.
template <Direction direction, class Unit, class M, class Real = typename M::Real>
FUSED_ACTS_CLONES void run_columns(const RowRun& run) {
  const TypedRun<Real> t(run);
#pragma omp simd
  for (int64_t i = 0; i < t.n; ++i) run_column<direction, Unit, M>(t, i);
}

template <Direction direction, class T, class Unit>
void run_portable(const RowRun& run) {
  run_in_buffers<T>(direction, run, run_columns<direction, Unit, typename MathFor<T>::type>);
}

}  // namespace

template <class T>
RowLoop portable_row_loop(Direction direction, Variant variant) {
  return visit_variant(variant, [&](auto unit) -> RowLoop {
    using Unit = decltype(unit);
    switch (direction) {
      case Direction::kForward:
        return run_portable<Direction::kForward, T, Unit>;
      case Direction::kBackward:
        return run_portable<Direction::kBackward, T, Unit>;
      default:
        return run_portable<Direction::kDoubleBackward, T, Unit>;
    }
  });
}

}  // namespace fused_acts::cpu
