// The auto-vectorised loops for calls with options.
#pragma once

#include <type_traits>

#include "../general.h"
#include "clones.h"
#include "convert.h"
#include "dense.h"

namespace fused_acts::cpu {

// GeneralRun in the type of the arithmetic.
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

// A run through buffers in the type of the arithmetic, where that is not the type in memory.
template <class T, class Real = typename MathFor<T>::type::Real>
void run_in_buffers(const GeneralRun& r, Direction direction, TileLoop<Real> loop) {
  constexpr int kBuffers = 9;
  alignas(64) Real buffers[kBuffers][kTile];
  int used = 0;
  const auto input = [&](const void* data) -> const Real* {
    if constexpr (std::is_same_v<T, Real>) {
      return static_cast<const Real*>(data);
    } else {
      Real* buffer = buffers[used++];
      if (data) to_float(static_cast<const T*>(data), buffer, r.n);
      return buffer;
    }
  };
  const auto output = [&](void* data) -> Real* {
    return std::is_same_v<T, Real> && data ? static_cast<Real*>(data) : buffers[used++];
  };
  const auto finish = [&](const Real* result, void* data, void* sum) {
    if constexpr (!std::is_same_v<T, Real>)
      if (data) from_float(result, static_cast<T*>(data), r.n);
    Real* sums = static_cast<Real*>(sum);
    for (int64_t i = 0; sums && i < r.n; ++i) sums[i] += result[i];
  };
  const auto row = [](const void* data) { return static_cast<const Real*>(data); };
  const Tile<Real> tile = {r.n,
                           static_cast<Real>(r.limit),
                           row(r.gate_bias),
                           row(r.up_bias),
                           row(r.parameter),
                           input(r.gate),
                           input(r.up),
                           input(r.grad_out),
                           input(r.gate_tangent),
                           input(r.up_tangent),
                           output(r.out),
                           output(r.grad_gate),
                           output(r.grad_up),
                           output(nullptr)};
  loop(tile);
  if (direction != Direction::kBackward) finish(tile.out, r.out, nullptr);
  if (direction == Direction::kForward) return;
  finish(tile.grad_gate, r.grad_gate, r.gate_sum);
  finish(tile.grad_up, r.grad_up, r.up_sum);
  finish(tile.grad_parameter, nullptr, r.parameter_sum);
}

template <Direction direction, class T, class Gate>
void run_portable(const GeneralRun& r) {
  run_in_buffers<T>(r, direction, run_columns<direction, Gate, typename MathFor<T>::type>);
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
