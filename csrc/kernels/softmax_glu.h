// The seam of softmax_glu: the arguments of one call, and what cpu/ and cuda/ do with them.
#pragma once

#include "kernels/glu.h"

namespace fused_acts {

// p = softmax(gate) over a row. Forward reads gate and up and writes out = p * up and stats; the
// row's largest gate and 1 / sum(exp(gate - largest)), in the type of the arithmetic. Backward
// reads grad_out, gate, up and stats and writes, where not null,
//   grad_up = p * grad_out,  grad_gate = p * (grad_out * up - sum(p * grad_out * up)).
struct SoftmaxGluArgs {
  DType dtype;
  int64_t rows, cols;
  Matrix gate, up;            // [rows, cols]
  Matrix grad_out;            // [rows, cols], backward
  Matrix out;                 // [rows, cols], forward
  Matrix grad_gate, grad_up;  // [rows, cols], backward
  void* stats;                // [rows, 2], dense
  // On the CPU rows are taken in equal parts, and what each adds to its row's sum is kept.
  int64_t parts = 1;
  double* partials = nullptr;  // [rows, parts, 2]
};

// Below every gate that takes part: a row of -inf alone then has a sum of 0 and becomes NaN, as it
// is in torch, and -inf beside others does not.
template <class Real>
constexpr Real kLowest = std::numeric_limits<Real>::lowest();

namespace cpu {

// Parts [begin, end) of rows * parts: first what they add, and once that of all parts of their rows
// is there, their results.
void softmax_glu_add(Direction direction, const SoftmaxGluArgs& args, int64_t begin, int64_t end);
void softmax_glu_finish(Direction direction, const SoftmaxGluArgs& args, int64_t begin,
                        int64_t end);

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int softmax_glu_forward(const SoftmaxGluArgs& args, void* stream);
int softmax_glu_backward(const SoftmaxGluArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
