// Runs brought into the type of the arithmetic by staging them through buffers. Of one translation
// unit each, since some of them are compiled for one instruction set.
#pragma once

#include <type_traits>

#include "cpu/convert.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// Runs a loop on operands in the type of the arithmetic, through buffers where they are of another
// type or absent.
template <class T, class Real = typename MathFor<T>::type::Real>
void run_in_buffers(Direction direction, const RowRun& run, RowLoop loop) {
  alignas(64) Real buffers[8][kTile];
  int used = 0;
  RowRun inner = run;
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
  if (direction == Direction::kDoubleBackward) {
    read(inner.gate_tangent);
    read(inner.up_tangent);
  }
  place(inner.out);
  if (direction != Direction::kForward) {
    place(inner.grad_gate);
    place(inner.grad_up);
  }
  if (direction == Direction::kBackward) {
    // small numbers, for these sums are added to
    for (int64_t i = 0; i < run.n; ++i) buffers[7][i] = Real(0);
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

}  // namespace
}  // namespace fused_acts::cpu
