// The plans: which kernel a call gets, and how its matrices are cut into vectors, threads and
// blocks. Host arithmetic, done once a call, without CUDA headers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "kernels/glu.h"

namespace fused_acts::cuda {

constexpr int kWidestAccess = 32;  // bytes, on sm_100 and later; 16 before
constexpr int kBlock = 128;  // threads; small, so that a small call reaches many multiprocessors

// The 32-bit arithmetic of the wide kernels: fewer than 2^31 threads, matrices that span less than
// 2^32 vectors (64 GiB).
constexpr int64_t kThreadsEnd = int64_t{1} << 31, kVectorsEnd = int64_t{1} << 32;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether a backward pass has more values alive than the registers of other units hold.
template <class Unit>
constexpr bool kHasManyValues =
    Unit::kHasSecond || std::is_same_v<typename Unit::template F<Math64>, Softplus<Math64>>;

namespace internal {

inline bool is_pair(const Matrix& gate, const Matrix& up, int64_t size) {
  return static_cast<char*>(gate.data) + size == up.data && gate.row_stride == up.row_stride;
}

// Whether an operand can be accessed `distance` elements at a time.
inline bool is_aligned(const GluArgs& args, const Matrix& operand, int64_t distance) {
  const int64_t stride = args.rows == 1 ? 0 : operand.row_stride;
  return operand.data == nullptr ||
         (reinterpret_cast<uintptr_t>(operand.data) % (distance * dtype_size(args.dtype)) == 0 &&
          stride % distance == 0);
}

// Whether all operands can be accessed so many columns at a time.
inline bool is_aligned(const GluArgs& args, int64_t columns) {
  const auto both = [&](const Matrix& gate, const Matrix& up) {
    if (args.step == 1) return is_aligned(args, gate, columns) && is_aligned(args, up, columns);
    return (!gate.data && !up.data) ||
           (is_aligned(args, gate, 2 * columns) && is_pair(gate, up, dtype_size(args.dtype)));
  };
  return both(args.gate, args.up) && both(args.grad_gate, args.grad_up) &&
         both(args.gate_tangent, args.up_tangent) && is_aligned(args, args.out, columns) &&
         is_aligned(args, args.grad_out, columns) && args.block % columns == 0;
}

inline bool has_many_values(Variant variant) {
  return visit_variant(variant, [](auto unit) { return kHasManyValues<decltype(unit)>; });
}

// Whether rows anywhere share an expert's values.
inline bool has_scattered_experts(const GluArgs& args) {
  return args.experts.of_row && args.experts.count;
}

// Whether an operand spans few enough vectors of so many elements.
inline bool is_short(const GluArgs& args, const Matrix& operand, int64_t columns) {
  const int64_t stride = args.rows == 1 ? 0 : operand.row_stride / columns;
  return stride < kVectorsEnd / args.rows - 1 &&
         (args.rows - 1) * stride + 2 * args.cols / columns < kVectorsEnd;
}

}  // namespace internal

// ---- Flat kernels: no row operands, and all of gate and up is at the same places --------------

// How the columns that a thread reads or writes at once lie in gate, up and their gradients.
enum class Access : int {
  kVector,       // neighbouring columns
  kInterleaved,  // neighbouring columns of gate and up, alternating, in one access
};

struct FlatPlan {
  Access access;
  int access_bytes;         // to gate and up; when interleaved, out and grad_out take half of it
  bool plain;               // without numbers
  int columns;              // of the matrices in one access
  int vectors;              // accesses of a thread to each matrix
  int64_t vectors_per_row;  // whole ones
  int64_t threads_per_row, threads;
  int64_t blocks;  // for all threads
  int64_t grid;    // blocks, and one more if there are columns that fill no vector
};

// So many threads side by side access 128 bytes; the next vector of each lies behind them.
constexpr int group_size(int access_bytes) { return 128 / access_bytes; }

// Enough loads in flight to hide the latency of memory, in few enough registers. Kernels with
// numbers, which are many, are content with a vector: half the code.
constexpr int vectors_per_thread(Access access, int access_bytes, bool plain) {
  const int bytes = !plain ? 16 : access == Access::kInterleaved ? 64 : 32;
  return std::max(bytes / access_bytes, 1);
}

// The plan of a call with at least one element, in accesses of at most widest_access bytes, if
// there is a kernel for it.
inline std::optional<FlatPlan> make_flat_plan(const GluArgs& args, int widest_access) {
  using namespace internal;
  const bool unary = args.unit->is_unary, backward = args.grad_out.data;
  if (args.dtype == DType::kFloat64 || args.has_row_operands() || args.block) return std::nullopt;
  if (unary ? args.product : backward && !(args.grad_gate.data && args.grad_up.data))
    return std::nullopt;
  const auto alike = [&](const Matrix& gate, const Matrix& up) {
    return args.rows == 1 || !up.data || gate.row_stride == up.row_stride;
  };
  if (!alike(args.gate, args.up) || !alike(args.grad_gate, args.grad_up)) return std::nullopt;

  FlatPlan plan{args.step == 2 ? Access::kInterleaved : Access::kVector};
  plan.plain = args.unit->has_plain_kernels && !args.has_options();
  if (!plan.plain && !args.unit->takes_numbers) return std::nullopt;
  const int size = static_cast<int>(dtype_size(args.dtype));
  const auto fits = [&](int columns) {
    const auto is_short = [&](const Matrix& m) { return internal::is_short(args, m, columns); };
    return is_aligned(args, columns) && (args.rows == 1 || args.cols % columns == 0) &&
           is_short(args.gate) && is_short(args.out) && is_short(args.grad_out) &&
           is_short(args.grad_gate) && args.rows * (args.cols / columns + 128) < kThreadsEnd;
  };
  plan.access_bytes = widest_access;
  // there is one width of kernels with numbers
  if (plan.plain && !fits(widest_access / (size * args.step))) plan.access_bytes = 16;
  plan.columns = plan.access_bytes / (size * args.step);
  if (!fits(plan.columns)) return std::nullopt;

  plan.vectors = vectors_per_thread(plan.access, plan.access_bytes, plan.plain);
  plan.vectors_per_row = args.cols / plan.columns;
  const int group = plan.vectors > 1 ? group_size(plan.access_bytes) : 1;
  plan.threads_per_row = ceil_div(plan.vectors_per_row, plan.vectors * group) * group;
  plan.threads = args.rows * plan.threads_per_row;
  plan.blocks = ceil_div(plan.threads, kBlock);
  plan.grid = plan.blocks + (args.cols % plan.columns != 0);
  return plan;
}

// ---- Row kernels, and the general ones --------------------------------------------------------

// A block is a grid of threads, lanes by 128 / lanes. A lane stays at its columns, so that a bias
// is read and a sum over rows kept once, and goes through the rows of a segment.
struct RowPlan {
  GluArgs args;      // folded into short rows, if all operands are dense
  bool wide;         // for a row kernel
  bool routed;       // with row weights or experts
  int access_bytes;  // to out and grad_out
  int columns;       // of a lane at once
  bool pairs;  // whether gate and up of a column are accessed at once, as they are interleaved
  int log2_lanes;
  int64_t tiles, segments, rows_per_segment;
  int64_t last_cols;  // of the last row, which a folded one need not fill
};

constexpr int kMostLanes = 32;  // of a row kernel
constexpr int kBlocksWanted = 1024;

// The plan for a call with at least one element.
inline RowPlan make_row_plan(const GluArgs& call, bool second_order, int widest_access) {
  using namespace internal;
  RowPlan plan{call};
  GluArgs& args = plan.args;
  const int size = static_cast<int>(dtype_size(args.dtype));
  const int64_t end = args.rows * args.cols;
  const auto fits = [&](int columns) {
    return is_aligned(args, columns) && args.cols % columns == 0;
  };
  const auto is_short = [&](const Matrix& m) { return internal::is_short(args, m, 16 / size); };
  const bool folds = args.rows == 1 && !args.has_row_operands() && !args.block;
  plan.routed = args.row_weight.data || args.experts.any();
  const bool suits = plan.routed
                         ? !has_scattered_experts(args) && args.rows < kThreadsEnd / 2 &&
                               args.experts.ends_count < kThreadsEnd / 2 &&
                               !(args.grad_out.data &&
                                 (args.parameters[0].data || has_many_values(args.unit->variant)))
                         // no gradient that is 0
                         : !((args.sums[2] || args.sums[3]) && args.unit->parameter_count == 0);
  plan.wide = suits && !second_order && size < 8 && fits(16 / size) && is_short(args.gate) &&
              is_short(args.up) && is_short(args.out) && is_short(args.grad_out) &&
              is_short(args.grad_gate) && is_short(args.grad_up) && args.rows < kThreadsEnd &&
              args.cols < (folds ? 4 : 1) * kThreadsEnd;
  plan.pairs = args.step == 2 && fits(1);
  // Backward a thread has enough in flight by 16 bytes, and its sums would take too much memory.
  const bool widest = !args.grad_out.data && !plan.routed && fits(widest_access / size);
  plan.access_bytes = !plan.wide ? size : widest ? widest_access : 16;
  plan.columns = plan.access_bytes / size;

  const int most_lanes = plan.wide ? kMostLanes : kBlock;
  plan.last_cols = args.cols;
  if (folds) {
    args.cols = most_lanes * plan.columns;
    args.rows = ceil_div(end, args.cols);
    for (Matrix* operand : {&args.gate, &args.up, &args.grad_gate, &args.grad_up,
                            &args.gate_tangent, &args.up_tangent})
      operand->row_stride = args.cols * args.step;
    args.out.row_stride = args.grad_out.row_stride = args.cols;
    plan.last_cols = end - (args.rows - 1) * args.cols;
  }
  const int64_t vectors = args.cols / plan.columns;
  // A sum over columns is one over the lanes of a warp.
  const bool sums_columns = args.row_weight.data != nullptr;
  const int most = call.rows == 1 && !args.segment_rows && !sums_columns ? most_lanes : kMostLanes;
  // the order in which rows are added up is for all kernels the same
  while ((1 << plan.log2_lanes) < most &&
         (args.segment_rows || (int64_t{1} << plan.log2_lanes) < vectors))
    ++plan.log2_lanes;
  plan.tiles = ceil_div(args.cols, int64_t{plan.columns} << plan.log2_lanes);
  plan.rows_per_segment = args.segment_rows ? args.segment_rows : kBlock >> plan.log2_lanes;
  // Up to 8 rows of a thread, as long as there are blocks for all multiprocessors; and where each
  // expert looks through all rows for its own, as many as make that quick.
  const bool scattered = has_scattered_experts(args);
  for (int doubled = 0; doubled < (scattered ? 8 : 3) && !args.segment_rows; ++doubled)
    if (scattered || plan.tiles * args.rows > kBlocksWanted * 2 * plan.rows_per_segment)
      plan.rows_per_segment *= 2;
  plan.segments = args.segments(plan.rows_per_segment).count();
  return plan;
}

}  // namespace fused_acts::cuda
