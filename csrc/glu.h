// The seam between tensors (library.cpp) and kernels (cpu/, cuda/). Torch-free.
#pragma once

#include <cstdint>

#include "variants.h"

namespace fused_acts {

enum class DType : int { kFloat64, kFloat32, kFloat16, kBFloat16 };

constexpr int64_t dtype_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// A matrix [rows, cols] in memory. Consecutive rows are row_stride elements apart, any stride, 0
// included.
struct Operand {
  void* data = nullptr;
  int64_t row_stride = 0;
};

// One forward or backward call. Forward reads gate and up and writes out; backward reads grad_out,
// gate and up and writes grad_gate and grad_up, each only if its data is not null. Consecutive
// columns of out and grad_out are 1 element apart, those of all others `step` elements: 2 when gate
// and up (and so their gradients) are interleaved in one packed tensor, with up one element behind
// gate. A call whose operands are all dense is given as one row.
struct GluArgs {
  Variant variant;
  DType dtype;
  int64_t rows, cols;
  int step = 1;
  Operand gate, up;            // [rows, cols]
  Operand out;                 // [rows, cols], forward
  Operand grad_out;            // [rows, cols], backward
  Operand grad_gate, grad_up;  // [rows, cols], backward
};

namespace cpu {

// Elements [begin, end) of the flat index row * cols + col; calls on disjoint ranges may run at the
// same time.
void glu_forward(const GluArgs& args, int64_t begin, int64_t end);
void glu_backward(const GluArgs& args, int64_t begin, int64_t end);

// The instruction set the loops run with on this processor.
const char* capability();

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int glu_forward(const GluArgs& args, void* stream);
int glu_backward(const GluArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
