// Checks that what is written is read by nobody else, from addresses and strides.
#include "ops/overlap.h"

#include "ops/tensors.h"

namespace fused_acts {
namespace {

void check_no_overlap(const GluArgs& args, const Matrix& out, int64_t width, const RowVector& row,
                      const char* name) {
  if (!row.data) return;
  const int64_t size = dtype_size(args.dtype);
  const int64_t length =
      ((args.cols - 1) * row.col_stride + 1) * (row.in_real ? real_size(args.dtype) : size);
  const int64_t stride = out.row_stride * size, out_row = width * size;
  const int64_t begin = static_cast<const char*>(row.data) - static_cast<const char*>(out.data);
  if (begin >= (args.rows - 1) * stride + out_row || begin + length <= 0) return;
  if (args.rows > 1) {
    const int64_t phase = (begin % stride + stride) % stride;
    if (phase >= out_row && phase + length <= stride) return;  // between two rows
  }
  fail(name, ": expected none of the memory that is written to");
}

}  // namespace

void check_rows_apart(const GluArgs& args, const Matrix& out, int64_t width, const char* name) {
  if (args.rows > 1 && out.row_stride < width)
    fail(name, ": expected rows of ", width,
         " elements apart from each other, got a row stride of ", out.row_stride);
}

bool overlap(const GluArgs& args, const Matrix& a, int a_step, const Matrix& b, int b_step) {
  const int64_t rows = args.rows, size = dtype_size(args.dtype);
  // bytes from the first to one past the last element, of a row and of all
  const auto row_extent = [&](int step) { return ((args.cols - 1) * step + 1) * size; };
  const auto extent = [&](const Matrix& m, int step) {
    return (rows - 1) * m.row_stride * size + row_extent(step);
  };
  const int64_t distance = static_cast<const char*>(a.data) - static_cast<const char*>(b.data);
  if (distance >= extent(b, b_step) || -distance >= extent(a, a_step)) return false;
  const int64_t row = a.row_stride * size;
  if (rows > 1 && a.row_stride == b.row_stride && row > 0) {
    const int64_t phase = (distance % row + row) % row;  // rows of one may lie between the other's
    if (phase >= row_extent(b_step) && phase + row_extent(a_step) <= row) return false;
  }
  return true;
}

void check_no_partial_overlap(const GluArgs& args, const Matrix& out, const Matrix& input,
                              const char* name) {
  const bool same_rows = args.rows == 1 || out.row_stride == input.row_stride;
  if (out.data == input.data && same_rows && args.step == 1) return;
  if (overlap(args, out, 1, input, args.step))
    fail("out: expected the memory of ", name, " exactly, or none of it, got a partial overlap");
}

void check_row_vectors_unwritten(const GluArgs& args, const Matrix& out, int64_t width) {
  check_no_overlap(args, out, width, args.gate_bias, is_unary(args.variant) ? "bias" : "gate_bias");
  check_no_overlap(args, out, width, args.up_bias, "up_bias");
  check_no_overlap(args, out, width, args.parameter, "parameter");
}

}  // namespace fused_acts
