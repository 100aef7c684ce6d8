// Which operands of a call may share memory.
#pragma once

#include "kernels/glu.h"

namespace fused_acts {

// Throws if rows of a matrix that is written share elements.
void check_rows_apart(const GluArgs& args, const Matrix& out, const char* name);

// Whether two matrices with columns a_step and b_step elements apart may have an element in common.
bool overlap(const GluArgs& args, const Matrix& a, int a_step, const Matrix& b, int b_step);

// Throws unless `out` is the very same matrix as `input` or has no element in common with it.
void check_no_partial_overlap(const GluArgs& args, const Matrix& out, const Matrix& input,
                              const char* name);

// Throws if `out`, whose rows are apart, has an element in common with a bias or a parameter.
void check_row_vectors_unwritten(const GluArgs& args, const Matrix& out);

}  // namespace fused_acts
