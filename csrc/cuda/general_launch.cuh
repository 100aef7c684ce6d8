// From a plan to its general kernel.
#pragma once

#include "cuda/general_kernels.cuh"
#include "cuda/launch.h"

namespace fused_acts::cuda {

inline GeneralParams general_params(const RowPlan& plan) {
  const GluArgs& args = plan.args;
  const int64_t size = dtype_size(args.dtype);
  const auto matrix = [&](const Matrix& operand) {
    return ByteMatrix{static_cast<char*>(operand.data), operand.row_stride * size};
  };
  return {matrix(args.gate),
          matrix(args.up),
          matrix(args.out),
          matrix(args.grad_out),
          matrix(args.grad_gate),
          matrix(args.grad_up),
          matrix(args.gate_tangent),
          matrix(args.up_tangent),
          args.gate_bias,
          args.up_bias,
          {args.parameters[0], args.parameters[1]},
          {args.scalars[0], args.scalars[1]},
          args.limit,
          args.weight,
          args.row_weight,
          args.segments(plan.rows_per_segment),
          {args.sums[0], args.sums[1], args.sums[2], args.sums[3]},
          args.weight_sums,
          args.counters,
          args.segment_rows > 0,
          plan.pairs,
          args.product,
          args.zeroes_padding,
          args.unit->variant,
          args.step,
          plan.log2_lanes,
          static_cast<unsigned>(plan.tiles),
          args.block,
          args.cols,
          (args.rows - 1) * args.cols + plan.last_cols};
}

template <class T>
cudaError_t launch_general(Direction direction, const RowPlan& plan, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    return launch_kernel(kernel, static_cast<unsigned>(plan.tiles * plan.segments), kBlock, 0,
                         stream, general_params(plan));
  };
  switch (direction) {
    case Direction::kForward:
      return launch(general_kernel<Direction::kForward, T>);
    case Direction::kBackward:
      return launch(general_kernel<Direction::kBackward, T>);
    default:
      return launch(general_kernel<Direction::kDoubleBackward, T>);
  }
}

}  // namespace fused_acts::cuda
