// Which operands of a call may share memory.
#pragma once

#include "ops/glu_args.h"

namespace fused_acts {

// Throws if rows of a matrix that is written, `width` elements each, share some.
void check_rows_apart(const GluArgs& args, const Matrix& out, int64_t width, const char* name);

// Throws if two elements of `t`, which is written, are one and the same.
void check_elements_apart(const View& t, const char* name);

// Throws if `out`, which is written, has memory in common with `input`.
void check_apart(const View& out, const char* name, const View& input, const char* input_name);

// Throws unless `out` is the very same matrix as `input` or has no element in common with it.
void check_no_partial_overlap(const GluArgs& args, const Matrix& out, const Matrix& input,
                              const char* name);

// Throws if `out`, whose rows of `width` elements are apart, has one in common with a bias, a
// parameter or the weight.
void check_vectors_unwritten(const GluArgs& args, const Matrix& out, int64_t width);

// Whether the place of a copy can be written instead: it holds the same, between two elements.
bool is_misaligned(const OptionalTensor& copy, const View& from);

// Throws unless what a call in place writes, `grad` of grad_out included where there is a product,
// lies apart from all else.
void check_in_place(const GluCall& call, const ReadMatrix& grad, const View& grad_out,
                    bool product);

}  // namespace fused_acts
