// The seam of the gated units: the arguments of one call, and what cpu/ and cuda/ do with them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/experts.h"
#include "kernels/unit_code.h"
#include "math/storage.h"

namespace fused_acts {

// A matrix [rows, cols] in memory. Consecutive rows are row_stride elements apart, any stride, 0
// included.
struct Matrix {
  void* data = nullptr;
  int64_t row_stride = 0;
};

// One value a column, [cols], for all rows or [experts, cols]: a bias, or a parameter. A col_stride
// of 0 is one value for all columns.
struct RowVector {
  const void* data = nullptr;
  int64_t col_stride = 0;
  bool in_real = false;  // in the type of the arithmetic, not that of the matrices
  int64_t expert_stride = 0;
};

// One value a row, [rows].
struct ColumnVector {
  const void* data = nullptr;
  bool in_real = false;
};

// Of one call over rows: by gate, up and two parameters.
constexpr int kMostSums = 4;

enum class Direction { kForward, kBackward, kDoubleBackward };

// One call. Forward reads gate and up and writes out. Backward reads grad_out, gate and up and
// writes grad_gate and grad_up; with `product` also what forward does, over grad_out. Double
// backward reads the tangents of gate and up as well and writes the gradients by grad_out (to out),
// gate and up of what backward computes, see SecondGradients. What is null is not written, or for
// grad_out and tangents 0. An activation has no up.
struct GluArgs {
  const UnitCode* unit = nullptr;
  DType dtype;
  int64_t rows, cols;
  // Elements from one column to the next of gate, up, their gradients and tangents: 2 where gate
  // and up are interleaved in one packed tensor, up one element behind gate. Of out and grad_out it
  // is 1.
  int step = 1;
  // Where not 0, gate and up take turns in blocks of so many columns in one packed tensor: column k
  // is at k / block * 2 * block + k % block, and up a block behind gate.
  int64_t block = 0;
  Matrix gate, up;                  // [rows, cols]
  Matrix out;                       // [rows, cols], forward and double backward
  Matrix grad_out;                  // [rows, cols], backward and double backward
  Matrix grad_gate, grad_up;        // [rows, cols], backward and double backward
  Matrix gate_tangent, up_tangent;  // [rows, cols], double backward
  bool product = false;             // backward

  // Options
  RowVector gate_bias, up_bias;
  RowVector parameters[2];
  double scalars[2] = {1.0, 1.0};  // the parameters where they are no row vectors
  double limit = std::numeric_limits<double>::infinity();
  double weight = 1.0;
  ColumnVector row_weight;  // in its place

  // Padding is not read. It is written 0 by a backward pass, and by a forward one if asked to.
  Experts experts;
  bool zeroes_padding = false;

  // Backward also writes, where not null, sums over the rows of each segment of `segment_rows`, in
  // the type of the arithmetic: of the gradients by gate, up and the parameters. 0: no sums.
  int64_t segment_rows = 0;
  void* sums[kMostSums] = {};  // [segments, cols]
  // And the gradient by row_weight in parts, of the tiles that columns are cut into.
  void* weight_sums = nullptr;  // [column_tiles, rows]
  // On a GPU it sets these to 0, where not null, for reduce_partials.
  unsigned* counters = nullptr;  // [kMostSums]

  bool has_row_operands() const {
    return gate_bias.data || up_bias.data || parameters[0].col_stride || parameters[1].col_stride ||
           segment_rows || row_weight.data || experts.any();
  }
  bool has_options() const {
    // no unit with plain kernels has a second parameter
    return has_row_operands() || parameters[0].data || scalars[0] != 1.0 || weight != 1.0 ||
           limit != std::numeric_limits<double>::infinity();
  }
  Segments segments(int64_t length) const { return {experts, rows, length}; }
};

// Describes a call without row operands with as few rows as there can be: gate and up in blocks as
// rows of a block each, and what is dense as one row, which needs no row arithmetic.
inline void fold_rows(GluArgs& args) {
  const auto dense = [&](int64_t packed, int64_t cols) {
    const auto fits = [](const Matrix& m, int64_t width) {
      return m.data == nullptr || m.row_stride == width;
    };
    return args.rows == 1 ||
           (fits(args.gate, packed) && fits(args.up, packed) && fits(args.grad_gate, packed) &&
            fits(args.grad_up, packed) && fits(args.gate_tangent, packed) &&
            fits(args.up_tangent, packed) && fits(args.out, cols) && fits(args.grad_out, cols));
  };
  if (args.block && dense(2 * args.cols, args.cols)) {
    for (Matrix* m : {&args.gate, &args.up, &args.grad_gate, &args.grad_up, &args.gate_tangent,
                      &args.up_tangent})
      m->row_stride = 2 * args.block;
    args.out.row_stride = args.grad_out.row_stride = args.block;
    args.rows *= args.cols / args.block;
    args.cols = args.block;
    args.block = 0;
  }
  if (!args.block && dense(args.cols * args.step, args.cols)) {
    args.cols *= args.rows;
    args.rows = 1;
  }
}

// A sum of partial ones, of each column, or a single one of all columns too where it is a `total`.
struct RowSum {
  Matrix partials;  // [parts, cols] in the type of the arithmetic; scratch afterwards
  int64_t parts, cols;
  void* data;    // the result: [cols], [experts, cols] or a single value
  bool in_real;  // that it is in the type of the arithmetic, not that of the matrices
  bool total;
  bool by_expert;  // a sum for each expert, of the parts that are its own; no total
};

// Adds up partial sums, always in the same order, and rounds the results to their types.
struct ReduceArgs {
  DType dtype;        // of the matrices
  Segments segments;  // for sums by expert
  int count = 0;
  RowSum sums[kMostSums + 1] = {};
  unsigned* counters = nullptr;  // [kMostSums], 0; needed where there is a total on a GPU

  void add(const RowSum& sum) { sums[count++] = sum; }
};

namespace cpu {

// Without row operands: elements [begin, end) of the flat index row * cols + col. With them: tiles
// [begin, end) of tile_count(args). Calls on disjoint ranges may run at the same time.
void glu_elements(Direction direction, const GluArgs& args, int64_t begin, int64_t end);
void glu_tiles(Direction direction, const GluArgs& args, int64_t begin, int64_t end);
int64_t tile_count(const GluArgs& args);
int64_t column_tiles(const GluArgs& args);  // of weight_sums

void reduce_partials(const ReduceArgs& args);

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int glu_forward(const GluArgs& args, void* stream);
int glu_backward(const GluArgs& args, void* stream);
int glu_double_backward(const GluArgs& args, void* stream);
int reduce_partials(const ReduceArgs& args, void* stream);
int64_t column_tiles(const GluArgs& args);  // of weight_sums

}  // namespace cuda
}  // namespace fused_acts
