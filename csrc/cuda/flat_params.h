// What a kernel is launched with. Laid out so that the device reads it in few, wide loads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/plan.h"

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

// The columns behind the last vector of a single row.
struct Tail {
  int64_t begin, end;
  int column_step;  // of gate and up
  unsigned block;   // that works on them
};

// How a kernel's threads are laid over the matrices.
template <class Index>
struct alignas(16) Shape {
  Divider<Index> threads_per_row;
  Index threads;
  // The v-th vector of a thread exists if the first one lies before ends[v] in its row.
  Index ends[4];
};

// A gradient that is not wanted is null. Strides: from one row to the next, in vectors; in elements
// where single ones are accessed.
template <class Index>
struct ForwardParams {
  Shape<Index> shape;
  Index gate_stride, out_stride, up_stride;
  char *gate, *up, *out;
  Tail tail;
};

template <class Index>
struct BackwardParams {
  Shape<Index> shape;
  Index gate_stride, grad_out_stride, grad_gate_stride, up_stride, grad_up_stride;
  char *gate, *up, *grad_out, *grad_gate, *grad_up;
  Tail tail;
};

// Turns the arguments of a call into those of its kernel.
template <class Index>
struct ParamsMaker {
  const GluArgs& args;
  const LaunchPlan& plan;

  Shape<Index> shape() const {
    const auto end = [&](int v) {
      const int64_t behind = int64_t{v} * group_size(plan.access_bytes);
      return static_cast<Index>(std::max<int64_t>(plan.vectors_per_row - behind, 0));
    };
    return {make_divider<Index>(std::max<int64_t>(plan.threads_per_row, 1)),
            static_cast<Index>(plan.threads),
            {end(0), end(1), end(2), end(3)}};
  }
  // step: from one column to the next, in elements
  Index stride(const Matrix& operand, int step = 1) const {
    const int64_t unit = plan.access == Access::kElement ? 1 : plan.columns * step;
    return static_cast<Index>(args.rows == 1 ? 0 : operand.row_stride / unit);
  }
  static char* data(const Matrix& operand) { return static_cast<char*>(operand.data); }
  Tail tail() const {
    return {plan.vectors_per_row * plan.columns, args.cols, args.step,
            static_cast<unsigned>(plan.blocks)};
  }
  ForwardParams<Index> forward() const {
    return {shape(),          stride(args.gate, args.step),
            stride(args.out), stride(args.up, args.step),
            data(args.gate),  data(args.up),
            data(args.out),   tail()};
  }
  BackwardParams<Index> backward() const {
    return {shape(),
            stride(args.gate, args.step),
            stride(args.grad_out),
            stride(args.grad_gate, args.step),
            stride(args.up, args.step),
            stride(args.grad_up, args.step),
            data(args.gate),
            data(args.up),
            data(args.grad_out),
            data(args.grad_gate),
            data(args.grad_up),
            tail()};
  }
};

}  // namespace fused_acts::cuda
