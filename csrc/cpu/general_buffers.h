// Runs of calls with options, brought into the type of the arithmetic.
#pragma once

#include <algorithm>
#include <type_traits>

#include "convert.h"
#include "dense.h"

namespace fused_acts::cpu {

// GeneralRun with the types of its operands.
template <class Real>
struct TypedRun {
  int64_t n;
  Real limit;
  const Real *gate_bias, *up_bias, *parameter;
  const Real *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  Real *out, *grad_gate, *grad_up;
  Real *gate_sum, *up_sum, *parameter_sum;

  explicit TypedRun(const GeneralRun& r)
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

// Runs a loop on operands in the type of the arithmetic, through buffers where they are of another
// type or absent.
template <class T, class Real = typename MathFor<T>::type::Real>
void run_in_buffers(Direction direction, const GeneralRun& run, GeneralLoop loop) {
  alignas(64) Real buffers[8][kTile];
  int used = 0;
  GeneralRun inner = run;
  const auto read = [&](const void*& data) {
    if constexpr (!std::is_same_v<T, Real>) {
      to_float(static_cast<const T*>(data), buffers[used], run.n);
      data = buffers[used++];
    }
  };
  const auto place = [&](void*& data) {
    if (!data || !std::is_same_v<T, Real>) data = buffers[used++];
  };
  const auto place_sum = [&](void*& sum) {
    if (!sum) sum = buffers[7];  // which is never read
  };
  const auto write = [&](const void* result, void* data) {
    if constexpr (!std::is_same_v<T, Real>)
      if (data) from_float(static_cast<const Real*>(result), static_cast<T*>(data), run.n);
  };
  read(inner.gate);
  read(inner.up);
  if (direction != Direction::kForward) read(inner.grad_out);
  if (direction == Direction::kSecond) {
    read(inner.gate_tangent);
    read(inner.up_tangent);
  }
  place(inner.out);
  if (direction != Direction::kForward) {
    place(inner.grad_gate);
    place(inner.grad_up);
  }
  if (direction == Direction::kBackward) {
    std::fill_n(buffers[7], run.n, Real(0));  // small numbers, for these sums are added to
    place_sum(inner.gate_sum);
    place_sum(inner.up_sum);
    place_sum(inner.parameter_sum);
  }
  loop(inner);
  write(inner.out, run.out);
  if (direction != Direction::kForward) {
    write(inner.grad_gate, run.grad_gate);
    write(inner.grad_up, run.grad_up);
  }
}

}  // namespace fused_acts::cpu
