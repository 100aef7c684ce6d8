// What a flat kernel is launched with. Laid out so that the device reads it in few, wide loads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/divider.h"
#include "cuda/plan.h"

namespace fused_acts::cuda {

// The columns behind the last vector of a single row.
struct Tail {
  int64_t begin, end;
  int column_step;  // of gate and up
  unsigned block;   // that works on them
};

// How a kernel's threads are laid over the matrices.
struct alignas(16) Shape {
  Divider threads_per_row;
  uint32_t threads;
  // The v-th vector of a thread exists if the first one lies before ends[v] in its row.
  uint32_t ends[4];
};

// The numbers of a call; a parameter that is learned lies on the device.
struct FlatNumbers {
  float parameters[2], limit, weight;
  const void* learned[2];
  bool in_real;
};

// Strides: from one row to the next, in vectors.
struct ForwardParams {
  Shape shape;
  uint32_t gate_stride, out_stride;
  char *gate, *up, *out;
  Tail tail;
  FlatNumbers numbers;
};

struct BackwardParams {
  Shape shape;
  uint32_t gate_stride, grad_out_stride, grad_gate_stride;
  bool product;
  char *gate, *up, *grad_out, *grad_gate, *grad_up;
  Tail tail;
  FlatNumbers numbers;
};

// Turns the arguments of a call into those of its kernel.
struct ParamsMaker {
  const GluArgs& args;
  const FlatPlan& plan;

  Shape shape() const {
    const auto end = [&](int v) {
      const int64_t behind = int64_t{v} * group_size(plan.access_bytes);
      return static_cast<uint32_t>(std::max<int64_t>(plan.vectors_per_row - behind, 0));
    };
    return {make_divider(std::max<int64_t>(plan.threads_per_row, 1)),
            static_cast<uint32_t>(plan.threads),
            {end(0), end(1), end(2), end(3)}};
  }
  // step: from one column to the next, in elements
  uint32_t stride(const Matrix& operand, int step = 1) const {
    return static_cast<uint32_t>(args.rows == 1 ? 0 : operand.row_stride / (plan.columns * step));
  }
  static char* data(const Matrix& operand) { return static_cast<char*>(operand.data); }
  Tail tail() const {
    return {plan.vectors_per_row * plan.columns, args.cols, args.step,
            static_cast<unsigned>(plan.blocks)};
  }
  FlatNumbers numbers() const {
    return {{static_cast<float>(args.scalars[0]), static_cast<float>(args.scalars[1])},
            static_cast<float>(args.limit),
            static_cast<float>(args.weight),
            {args.parameters[0].data, args.parameters[1].data},
            args.parameters[0].in_real};
  }
  ForwardParams forward() const {
    return {shape(),          stride(args.gate, args.step),
            stride(args.out), data(args.gate),
            data(args.up),    data(args.out),
            tail(),           numbers()};
  }
  BackwardParams backward() const {
    return {shape(),
            stride(args.gate, args.step),
            stride(args.grad_out),
            stride(args.grad_gate, args.step),
            args.product,
            data(args.gate),
            data(args.up),
            data(args.grad_out),
            data(args.grad_gate),
            data(args.grad_up),
            tail(),
            numbers()};
  }
};

}  // namespace fused_acts::cuda
