// The seam between tensors (library.cpp) and kernels (cpu/, cuda/). Torch-free.
#pragma once

#include <cstdint>
#include <limits>

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

// What all rows share, [cols]: a bias, or the parameter of f. Columns are `step` elements apart; 0
// is one value for all.
struct Row {
  const void* data = nullptr;
  int64_t step = 0;
  bool wide = false;  // in the type of the arithmetic, not that of the matrices
};

enum class Direction { kForward, kBackward, kSecond };

// One call. Forward reads gate and up and writes out; backward reads grad_out, gate and up and
// writes grad_gate and grad_up; second reads the tangents of gate and up as well and writes the
// gradients by grad_out (to out), gate and up of what backward computes, see SecondGradients. What
// is null is not written, or for grad_out and tangents 0. With `product`, backward also writes what
// forward does, over grad_out. Consecutive columns of out and grad_out are 1 element apart, those
// of all others `step` elements: 2 when gate and up (and so their gradients) are interleaved in one
// packed tensor, with up one element behind gate. A call whose operands are all dense is given as
// one row.
struct GluArgs {
  Variant variant;
  DType dtype;
  int64_t rows, cols;
  int step = 1;
  Operand gate, up;                  // [rows, cols]
  Operand out;                       // [rows, cols], forward and second
  Operand grad_out;                  // [rows, cols], backward and second
  Operand grad_gate, grad_up;        // [rows, cols], backward and second
  Operand gate_tangent, up_tangent;  // [rows, cols], second
  bool product = false;              // backward

  // Options
  Row gate_bias, up_bias;
  Row parameter;
  double scalar = 1.0;  // the parameter where it is no row
  double limit = std::numeric_limits<double>::infinity();

  // Backward also writes, where not null, sums over the rows of each of `chunks` equal parts of
  // them, in the type of the arithmetic: of the gradients by gate, up and parameter.
  int64_t chunks = 0;
  struct {
    void *gate = nullptr, *up = nullptr, *parameter = nullptr;  // [chunks, cols]
  } sums;

  bool has_rows() const { return gate_bias.data || up_bias.data || parameter.step || chunks; }
  bool has_options() const {
    return has_rows() || parameter.data || scalar != 1.0 ||
           limit != std::numeric_limits<double>::infinity();
  }
  int64_t rows_per_chunk() const { return (rows + chunks - 1) / chunks; }
};

// Adds up the chunks of `kinds` sums: partial [kinds, chunks, cols] to sums [kinds, cols], both in
// the type of the arithmetic, always in the same order. total: the last kind is for one parameter
// and goes on to its first column.
struct SumArgs {
  const void* partial;
  void* sums;
  int64_t kinds, chunks, cols;
  bool is_double, total;
};

namespace cpu {

// Whether a call, forward or backward, is one for the loops below.
bool has_dense_loops(const GluArgs& args);

// Elements [begin, end) of the flat index row * cols + col; calls on disjoint ranges may run at the
// same time.
void glu_forward(const GluArgs& args, int64_t begin, int64_t end);
void glu_backward(const GluArgs& args, int64_t begin, int64_t end);

// Tiles [begin, end) of a call in any direction with any options, of tile_count(args).
void glu_general(Direction direction, const GluArgs& args, int64_t begin, int64_t end);
int64_t tile_count(const GluArgs& args);

void add_chunks(const SumArgs& args);

// The instruction set the loops run with on this processor.
const char* capability();

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int glu_forward(const GluArgs& args, void* stream);
int glu_backward(const GluArgs& args, void* stream);
int glu_second(const GluArgs& args, void* stream);
int add_chunks(const SumArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
