// The launch plan: how a call's matrices are cut into vectors, threads and blocks. Host arithmetic,
// done once a call, without CUDA headers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/glu.h"

namespace fused_acts::cuda {

constexpr int kWidestAccess = 32;  // bytes, on sm_100 and later; 16 before
constexpr int kBlock = 128;  // threads; small, so that a small call reaches many multiprocessors

// How the columns that a thread reads or writes at once lie in gate, up and their gradients.
enum class Access : int {
  kElement,      // a single column
  kVector,       // neighbouring columns
  kInterleaved,  // neighbouring columns of gate and up, alternating, in one access
};

struct LaunchPlan {
  Access access;
  int access_bytes;         // to gate and up; when interleaved, out and grad_out take half of it
  int columns;              // of the matrices in one access
  int vectors;              // accesses of a thread to each matrix
  int64_t vectors_per_row;  // whole ones
  int64_t threads_per_row, threads;
  int64_t blocks;  // for all threads
  int64_t grid;    // blocks, and one more if there are columns that fill no vector
};

// So many threads side by side access 128 bytes; the next vector of each lies behind them.
constexpr int group_size(int access_bytes) { return 128 / access_bytes; }

// Wide accesses come with kernels for the common case: fewer than 2^31 threads, matrices that span
// less than 2^32 vectors (64 GiB), rows of gate and up equally far apart, and both gradients
// wanted. All else is for the narrower accesses.
constexpr bool is_narrow(int access_bytes) { return access_bytes < 16; }
// Enough loads in flight to hide the latency of memory, in few enough registers.
constexpr int vectors_per_thread(Access access, int access_bytes) {
  const int bytes = (is_narrow(access_bytes) ? 16 : 32) * (access == Access::kInterleaved ? 2 : 1);
  return std::clamp(bytes / access_bytes, 1, 4);
}

// Whether there are flat kernels for activations, and such as write the product too; where not, a
// row kernel serves.
constexpr bool is_instantiated(Access access, int access_bytes) {
  return access == Access::kVector && !is_narrow(access_bytes);
}

constexpr int64_t kThreadsEnd = int64_t{1} << 31, kVectorsEnd = int64_t{1} << 32;

namespace internal {

inline bool is_pair(const Matrix& gate, const Matrix& up, int64_t size) {
  return static_cast<char*>(gate.data) + size == up.data && gate.row_stride == up.row_stride;
}

// Whether the call is one for the kernels of wide accesses, with so many columns each.
inline bool fits_wide(const GluArgs& args, int columns) {
  const auto spans_less = [&](const Matrix& operand) {
    const int64_t stride = args.rows == 1 ? 0 : operand.row_stride / columns;
    return stride < kVectorsEnd / args.rows - 1;
  };
  const auto alike = [&](const Matrix& gate, const Matrix& up) {
    return spans_less(gate) && (args.rows == 1 || !up.data || gate.row_stride == up.row_stride);
  };
  const bool both =
      !args.grad_out.data || (args.grad_gate.data && (args.grad_up.data || !args.up.data));
  return both && alike(args.gate, args.up) && alike(args.grad_gate, args.grad_up) &&
         spans_less(args.out) && spans_less(args.grad_out) &&
         args.rows * (args.cols / columns + 128) < kThreadsEnd;
}

// Whether all operands can be accessed so many columns at a time.
inline bool fits(const GluArgs& args, int columns) {
  const int64_t size = dtype_size(args.dtype);
  const auto aligned = [&](const Matrix& operand, int64_t distance) {
    const int64_t stride = args.rows == 1 ? 0 : operand.row_stride;
    return operand.data == nullptr ||
           (reinterpret_cast<uintptr_t>(operand.data) % (distance * size) == 0 &&
            stride % distance == 0);
  };
  const int distance = columns * args.step;
  if (!is_narrow(static_cast<int>(distance * size)) && !fits_wide(args, columns)) return false;
  if (args.rows > 1 && args.cols % columns != 0) return false;
  if (args.step == 2) {
    if (!is_pair(args.gate, args.up, size)) return false;
    if (args.grad_out.data && !is_pair(args.grad_gate, args.grad_up, size)) return false;
  } else if (!aligned(args.up, columns) || !aligned(args.grad_up, columns)) {
    return false;
  }
  return aligned(args.gate, distance) && aligned(args.grad_gate, distance) &&
         aligned(args.out, columns) && aligned(args.grad_out, columns);
}

}  // namespace internal

// The plan for a call with at least one element, in accesses of at most widest_access bytes.
inline LaunchPlan make_plan(const GluArgs& args, int widest_access) {
  const int size = static_cast<int>(dtype_size(args.dtype));
  LaunchPlan plan{Access::kElement, size, 1};
  for (int bytes = widest_access; bytes > size; bytes /= 2) {
    const int columns = bytes / (size * args.step);
    if (internal::fits(args, columns)) {
      plan = {args.step == 2 ? Access::kInterleaved : Access::kVector, bytes, columns};
      break;
    }
  }
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  plan.vectors = vectors_per_thread(plan.access, plan.access_bytes);
  plan.vectors_per_row = args.cols / plan.columns;
  const int group = plan.vectors > 1 ? group_size(plan.access_bytes) : 1;
  plan.threads_per_row = ceil_div(plan.vectors_per_row, plan.vectors * group) * group;
  plan.threads = args.rows * plan.threads_per_row;
  plan.blocks = ceil_div(plan.threads, kBlock);
  plan.grid = plan.blocks + (args.cols % plan.columns != 0);
  return plan;
}

// ---- Row kernels ----

// A block is a grid of threads, lanes by 128 / lanes. A lane stays at its columns, so that a bias
// is read and a sum over rows kept once, and goes through the rows of a row_block.
struct RowPlan {
  GluArgs args;  // folded, if all operands are dense
  int columns;   // of a lane: 2, where 16-bit operands allow accesses to pairs of them
  bool pairs;    // whether gate and up of a column are accessed at once, as they are interleaved
  int log2_lanes;
  int64_t tiles, row_blocks, rows_per_block;
  int64_t end;  // elements, which the last folded row need not fill
};

namespace internal {

inline bool fits_rows(const GluArgs& args, int64_t total, int columns, bool pairs) {
  const int64_t size = dtype_size(args.dtype);
  const auto aligned = [&](const Matrix& operand, int64_t distance) {
    return operand.data == nullptr ||
           (reinterpret_cast<uintptr_t>(operand.data) % (distance * size) == 0 &&
            (args.rows == 1 || operand.row_stride % distance == 0));
  };
  const auto fits = [&](const Matrix& gate, const Matrix& up) {
    if (!pairs) return aligned(gate, columns) && aligned(up, columns);
    return (!gate.data && !up.data) || (aligned(gate, 2 * columns) && is_pair(gate, up, size));
  };
  return (args.rows == 1 ? total : args.cols) % columns == 0 && args.block % columns == 0 &&
         fits(args.gate, args.up) && fits(args.grad_gate, args.grad_up) &&
         fits(args.gate_tangent, args.up_tangent) && aligned(args.out, columns) &&
         aligned(args.grad_out, columns);
}

}  // namespace internal

// The plan for a call with at least one element.
inline RowPlan make_row_plan(const GluArgs& call) {
  RowPlan plan{call, 1};
  GluArgs& args = plan.args;
  plan.end = args.rows * args.cols;
  plan.pairs = args.step == 2 && internal::fits_rows(args, plan.end, 1, true);
  if (dtype_size(args.dtype) == 2 && (args.step == 1 || plan.pairs) &&
      internal::fits_rows(args, plan.end, 2, plan.pairs))
    plan.columns = 2;

  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  if (args.rows == 1 && !args.has_row_operands() && !args.block) {
    args.cols = kBlock * plan.columns;
    args.rows = ceil_div(plan.end, args.cols);
    for (Matrix* operand : {&args.gate, &args.up, &args.grad_gate, &args.grad_up,
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
  plan.rows_per_block = args.row_blocks ? args.rows_per_block() : row_lanes * kRowsOfThread;
  plan.row_blocks = args.row_blocks ? args.row_blocks : ceil_div(args.rows, plan.rows_per_block);
  return plan;
}

}  // namespace fused_acts::cuda
