// Checks that what is written is read by nobody else, from addresses and strides.
#include "ops/overlap.h"

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

// Points a matrix in a copy to the same elements of what was copied.
void restore(const OptionalTensor& copy, const View& from, Matrix* matrix) {
  if (!copy) return;
  const auto offset = static_cast<char*>(matrix->data) - static_cast<char*>(data_of(*copy));
  matrix->data = static_cast<char*>(from.data) + offset;
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

bool is_misaligned(const OptionalTensor& copy, const View& from) {
  return copy && !from.aligned && is_contiguous(from);
}

void check_in_place(const GluCall& call, const ReadMatrix& grad, const View& grad_out,
                    bool product) {
  GluArgs args = call.args;
  restore(call.gate_copy, call.gate, &args.gate);
  if (args.up.data)
    restore(call.up ? call.up_copy : call.gate_copy, call.up ? *call.up : call.gate, &args.up);
  if (product) restore(grad.copy, grad_out, &args.grad_out);
  const auto check_written = [&](const Matrix& matrix, int64_t width, const char* name) {
    check_rows_apart(args, matrix, width, name);
    check_row_vectors_unwritten(args, matrix, width);
  };
  // A packed x is written as one matrix: the rows of its gate may lie between those of its up.
  const Matrix whole{call.gate.data, args.gate.row_stride};
  check_written(whole, call.gate.last_size(), call.name());
  if (call.up) check_written(args.up, args.cols, "up");
  if (product) check_written(args.grad_out, args.cols, "grad_out");
  if ((call.up && overlap(args, args.gate, 1, args.up, 1)) ||
      overlap(args, args.gate, args.step, args.grad_out, 1) ||
      (args.up.data && overlap(args, args.up, args.step, args.grad_out, 1)))
    fail("inplace_backward: expected gate, up and grad_out without common memory");
}

}  // namespace fused_acts
