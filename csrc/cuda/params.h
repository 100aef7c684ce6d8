// What a kernel is launched with. Laid out so that the device reads it in few, wide loads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan.h"

namespace fused_acts::cuda {

// Exact quotients n / divisor for n below half the range of Index:
//   n * magic >> shift,  magic = ceil(2^s / divisor),  s = bits - 1 + ceil(log2(divisor))
// where shift is s, less 64 for the 64-bit Index, whose device code keeps the high half only.
template <class Index>
struct Divider {
  Index minus_divisor, magic;
  int shift;
};

template <class Index>
Divider<Index> make_divider(int64_t divisor) {
  constexpr int kBits = 8 * sizeof(Index);
  int log2 = 0;
  while (log2 < kBits - 1 && (int64_t{1} << log2) < divisor) ++log2;
  const auto power = static_cast<unsigned __int128>(1) << (kBits - 1 + log2);
  return {static_cast<Index>(-divisor), static_cast<Index>((power + divisor - 1) / divisor),
          kBits == 32 ? 31 + log2 : log2};
}

template <class Index>
struct alignas(16) Shape {
  Divider<Index> threads_per_row;
  Index threads;
  Index vectors_per_row;
};

// Matrix and row stride in vectors; in elements where single ones are accessed.
template <class Index>
struct alignas(16) Matrix {
  char* data;
  Index stride;
};

// The columns behind the last vector of a single row.
struct Tail {
  int64_t begin, end;
  int column_step;  // of gate and up
  unsigned block;   // that works on them
};

template <class Index>
struct ForwardParams {
  Shape<Index> shape;
  Matrix<Index> gate, up, out;
  Tail tail;
};

template <class Index>
struct BackwardParams {
  Shape<Index> shape;
  Matrix<Index> gate, up, grad_out, grad_gate, grad_up;
  Tail tail;
};

// Turns the arguments of a call into those of its kernel.
template <class Index>
struct ParamsMaker {
  const GluArgs& args;
  const LaunchPlan& plan;

  Shape<Index> shape() const {
    return {make_divider<Index>(plan.threads_per_row), static_cast<Index>(plan.threads),
            static_cast<Index>(plan.vectors_per_row)};
  }
  // distance: from one vector to the next in a row, in elements
  Matrix<Index> matrix(const Operand& operand, int64_t distance) const {
    const int64_t stride = args.rows == 1 ? 0 : operand.row_stride / distance;
    return {static_cast<char*>(operand.data), static_cast<Index>(stride)};
  }
  Matrix<Index> plain(const Operand& operand) const { return matrix(operand, plan.columns); }
  Matrix<Index> stepped(const Operand& operand) const {
    return matrix(operand, plan.columns * args.step);
  }
  Tail tail() const {
    return {plan.vectors_per_row * plan.columns, args.cols, args.step,
            static_cast<unsigned>(plan.blocks)};
  }
  ForwardParams<Index> forward() const {
    return {shape(), stepped(args.gate), stepped(args.up), plain(args.out), tail()};
  }
  BackwardParams<Index> backward() const {
    return {shape(), stepped(args.gate), stepped(args.up), plain(args.grad_out),
            stepped(args.grad_gate), stepped(args.grad_up), tail()};
  }
};

}  // namespace fused_acts::cuda
