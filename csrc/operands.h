// Tensors as matrices: argument checks, and the step from any rank and stride to an Operand. Stable
// ABI only.
#pragma once

#include <pybind11/pybind11.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <string>

#include "glu.h"

namespace fused_acts {

using torch::stable::Tensor;
using TypeError = pybind11::type_error;
using ValueError = pybind11::value_error;

template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

std::string shape_of(const Tensor& t);

// The dtype of `t`; throws TypeError unless kernels compute in it.
DType checked_dtype(const Tensor& t, const char* name);

// Throws unless kernels of this build run on the device of `t`.
void check_device(const Tensor& t, const char* name);

// Throws unless `t` has the dtype, the device and, with `cols` as the last dimension, the shape of
// `like`.
void check_matches(const Tensor& t, const char* name, const Tensor& like, const char* like_name,
                   int64_t cols);

// Throws if rows of a matrix that is written share elements.
void check_rows_apart(const GluArgs& args, const Operand& out, const char* name);

// Whether two operands with columns `step` elements apart may have an element in common.
bool overlap(const GluArgs& args, const Operand& a, int a_step, const Operand& b, int b_step);

// Throws unless `out` is the very same matrix as `input` or has no element in common with it.
void check_no_partial_overlap(const GluArgs& args, const Operand& out, const Operand& input,
                              const char* name);

// Throws if what all rows share has an element in common with `out`, whose rows are apart.
void check_no_overlap(const GluArgs& args, const Operand& out, const Row& row, const char* name);

// Whether an Operand can describe `t`: dense rows, evenly spaced.
bool is_matrix(const Tensor& t);
Operand operand_of(const Tensor& t);

// `t` itself where it is a matrix, a contiguous copy otherwise.
Tensor with_row_stride(const Tensor& t);

// New contiguous tensors with the dtype and device of `like`: of its shape with `cols` as the last
// dimension; [0].
Tensor empty_like(const Tensor& like, int64_t cols);
Tensor empty(const Tensor& like);

// A new tensor [n, m, cols] in the type that `like` is computed in.
Tensor empty_real(const Tensor& like, int64_t n, int64_t m, int64_t cols);

// `t`, [cols] or perhaps a single value, as what all rows of gate share; throws if it is not that.
Row row_of(const Tensor& t, const char* name, const Tensor& gate, int64_t cols, bool may_be_one);

// Describes operands that are all dense as one row, which needs no row arithmetic.
void flatten_if_dense(GluArgs& args);

// Throws the error that a cudaError_t stands for.
void check_cuda(int error);

}  // namespace fused_acts
