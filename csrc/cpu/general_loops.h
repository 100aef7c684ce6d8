// The loops over one tile of columns for calls with options, one instantiation per arithmetic.
#pragma once

#include "../general.h"
#include "../glu.h"
#include "clones.h"

namespace fused_acts::cpu {

// Buffers of n columns. An input that the direction does not read, or that is absent, holds what
// changes nothing.
template <class Real>
struct Tile {
  int64_t n;
  Real limit;
  const Real *gate_bias, *up_bias, *parameter;
  const Real *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  Real *out, *grad_gate, *grad_up, *grad_parameter;
};

template <class Real>
using TileLoop = void (*)(const Tile<Real>&);

// One column. Not written out in the loops: the compiler does not vectorise a loop whose body has
// objects with methods of its own.
template <Direction direction, class Gate, class M, class Real>
FUSED_ACTS_INLINE void run_column(const Tile<Real>& t, int64_t i) {
  const General<Gate, M> unit(t.parameter[i], t.limit, t.gate_bias[i], t.up_bias[i]);
  if constexpr (direction == Direction::kForward) {
    t.out[i] = unit.forward(t.gate[i], t.up[i]);
  } else if constexpr (direction == Direction::kBackward) {
    const auto grads = unit.backward(t.grad_out[i], t.gate[i], t.up[i]);
    t.grad_gate[i] = grads.gate;
    t.grad_up[i] = grads.up;
    t.grad_parameter[i] = grads.parameter;
  } else {
    const auto grads =
        unit.second(t.grad_out[i], t.gate[i], t.up[i], t.gate_tangent[i], t.up_tangent[i]);
    t.out[i] = grads.grad_out;
    t.grad_gate[i] = grads.gate;
    t.grad_up[i] = grads.up;
  }
}

template <Direction direction, class Gate, class M, class Real = typename M::Real>
FUSED_ACTS_CLONES void run_columns(const Tile<Real>& tile) {
  const Tile<Real> t = tile;
#pragma omp simd
  for (int64_t i = 0; i < t.n; ++i) run_column<direction, Gate, M>(t, i);
}

// The loop for a variant and a direction; each math has a translation unit for it.
template <class M>
TileLoop<typename M::Real> find_tile_loop(Direction direction, Variant variant) {
  return visit_variant(variant, [&](auto gate) -> TileLoop<typename M::Real> {
    using Gate = decltype(gate);
    switch (direction) {
      case Direction::kForward:
        return run_columns<Direction::kForward, Gate, M>;
      case Direction::kBackward:
        return run_columns<Direction::kBackward, Gate, M>;
      default:
        return run_columns<Direction::kSecond, Gate, M>;
    }
  });
}

extern template TileLoop<float> find_tile_loop<Math16<float>>(Direction, Variant);
extern template TileLoop<float> find_tile_loop<Math32<float>>(Direction, Variant);
extern template TileLoop<double> find_tile_loop<Math64>(Direction, Variant);

}  // namespace fused_acts::cpu
