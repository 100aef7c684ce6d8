// The seam of the units of whole rows: the arguments of one call, and what cpu/ and cuda/ do with
// them.
#pragma once

#include "kernels/glu.h"
#include "math/row_units.h"

namespace fused_acts {

// Statistics are of each of `groups` equal parts of a row, `cols` columns each. Forward reads first
// and second and writes out and stats; backward reads grad_out, first, second and stats and writes,
// where not null, the gradients.
struct RowUnitArgs {
  RowSettings settings;
  DType dtype;
  int64_t rows, groups, cols;
  Matrix first, second;            // [rows, groups * cols]
  Matrix grad_out;                 // [rows, groups * cols], backward
  Matrix out;                      // [rows, groups * cols], forward
  Matrix grad_first, grad_second;  // [rows, groups * cols], backward
  RowVector weight;                // dense: [groups * cols] a column each, or the coefficients [3]
  RowVector bias;                  // [1], beside the coefficients
  void* stats;                     // [rows, groups, kStats], dense, in the type of the arithmetic

  // Backward also writes, where not null, what each of `row_blocks` equal parts of the rows adds to
  // the gradients of the parameters, in the type of the arithmetic.
  int64_t row_blocks = 1;
  void* parameter_sums = nullptr;  // [row_blocks, groups * cols] or [row_blocks, kRowParameters]

  // On the CPU long groups are taken in equal parts, and what each adds to the sums is kept.
  int64_t parts = 1;
  double* partials = nullptr;  // [rows, groups, parts, kRowSums], of several parts

  int64_t rows_per_block() const { return (rows + row_blocks - 1) / row_blocks; }
};

namespace cpu {

// Part `part` of all groups of the rows [begin, end): what it adds, kept where there are partials,
// and its results, which are due once all parts of the rows have added. Where there are
// parameter_sums results are of the rows of one block at a time.
void row_unit_rows(Direction direction, const RowUnitArgs& args, int64_t begin, int64_t end,
                   int64_t part, bool adds, bool finishes);

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int row_unit_forward(const RowUnitArgs& args, void* stream);
int row_unit_backward(const RowUnitArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
