// The launch of a call with options. Host arithmetic; torch-free and CUDA-free.
#pragma once

#include "plan.h"

namespace fused_acts::cuda {

// A block is a grid of threads, lanes by 128 / lanes. A lane stays at its columns, so that a bias
// is read and a sum over rows kept once, and goes through the rows of a chunk.
struct GeneralPlan {
  GluArgs args;  // folded, if all operands are dense
  int columns;   // of a lane: 2, where 16-bit operands allow accesses to pairs of them
  bool pairs;    // whether gate and up of a column are accessed at once, as they are interleaved
  int log2_lanes;
  int64_t tiles, chunks, rows_per_chunk;
  int64_t end;  // elements, which the last folded row need not fill
};

namespace internal {

inline bool fits_general(const GluArgs& args, int64_t total, int columns, bool pairs) {
  const int64_t size = dtype_size(args.dtype);
  const auto aligned = [&](const Operand& operand, int64_t distance) {
    return operand.data == nullptr ||
           (reinterpret_cast<uintptr_t>(operand.data) % (distance * size) == 0 &&
            (args.rows == 1 || operand.row_stride % distance == 0));
  };
  const auto fits = [&](const Operand& gate, const Operand& up) {
    if (!pairs) return aligned(gate, columns) && aligned(up, columns);
    return (!gate.data && !up.data) || (aligned(gate, 2 * columns) && is_pair(gate, up, size));
  };
  return (args.rows == 1 ? total : args.cols) % columns == 0 && fits(args.gate, args.up) &&
         fits(args.grad_gate, args.grad_up) && fits(args.gate_tangent, args.up_tangent) &&
         aligned(args.out, columns) && aligned(args.grad_out, columns);
}

}  // namespace internal

// The plan for a call with at least one element.
inline GeneralPlan make_general_plan(const GluArgs& call) {
  GeneralPlan plan{call, 1};
  GluArgs& args = plan.args;
  plan.end = args.rows * args.cols;
  plan.pairs = args.step == 2 && internal::fits_general(args, plan.end, 1, true);
  if (dtype_size(args.dtype) == 2 && (args.step == 1 || plan.pairs) &&
      internal::fits_general(args, plan.end, 2, plan.pairs))
    plan.columns = 2;

  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  if (args.rows == 1 && !args.has_rows()) {
    args.cols = kBlock * plan.columns;
    args.rows = ceil_div(plan.end, args.cols);
    for (Operand* operand : {&args.gate, &args.up, &args.grad_gate, &args.grad_up,
                             &args.gate_tangent, &args.up_tangent})
      operand->row_stride = args.cols * args.step;
    args.out.row_stride = args.grad_out.row_stride = args.cols;
    plan.log2_lanes = 7;
  } else {
    const int64_t vectors = args.cols / plan.columns;
    const int most = args.rows == 1 ? 7 : 5;
    while (plan.log2_lanes < most && (int64_t{1} << plan.log2_lanes) < vectors) ++plan.log2_lanes;
  }
  constexpr int kRowsOfThread = 4;
  const int64_t row_lanes = kBlock >> plan.log2_lanes;
  plan.tiles = ceil_div(args.cols, int64_t{plan.columns} << plan.log2_lanes);
  plan.rows_per_chunk = args.chunks ? args.rows_per_chunk() : row_lanes * kRowsOfThread;
  plan.chunks = args.chunks ? args.chunks : ceil_div(args.rows, plan.rows_per_chunk);
  return plan;
}

}  // namespace fused_acts::cuda
