// The innermost loops: one form, compiled for each instruction set and storage type.
#pragma once

#include <cstdint>

#include "kernels/glu.h"
#include "math/quantize.h"
#include "math/row_units.h"
#include "math/unit.h"

namespace fused_acts::cpu {

// Columns at most of a block with row vectors, or with a scratch in an operand's place.
constexpr int64_t kTile = 1024;
// Elements at most that a loop computes in step.
constexpr int64_t kMostInStep = 64;

// Neighbouring columns of some rows. Operands are those of GluArgs, at the first element. An output
// may be the very same memory as an input, and only out may be null, the product of a backward pass
// or what is not wanted.
struct Block {
  int64_t rows, cols;
  bool pairs;        // up is one element behind gate, and columns are 2 apart; so are the gradients
  bool past_caches;  // the outputs are too large to be found in the caches again
  double scalars[2], limit, weight;
  const void *gate_bias, *up_bias, *parameters[2];  // [cols], in the type of the arithmetic
  Matrix gate, up, grad_out, gate_tangent, up_tangent;
  Matrix out, grad_gate, grad_up;
  // [cols], by gate, up and the parameters, added to; null where not wanted
  void* sums[4];
  // [kMostInStep], by the weight in parts, added to; null where not wanted
  void* weight_sums;
};
using Loop = void (*)(const Block&);

// Of softmax_glu, over n columns of one row, see loop_softmax.h.
struct SoftmaxLoop {
  void (*sum_up)(const void* gate, int64_t n, double* largest, double* sum);
  void (*forward)(const void* gate, const void* up, void* out, int64_t n, double largest,
                  double scale);
  double (*backward_up)(const void* gate, const void* up, const void* grad_out, void* grad_up,
                        int64_t n, double largest, double scale);
  void (*backward_gate)(const void* gate, const void* up, const void* grad_out, void* grad_gate,
                        int64_t n, double largest, double scale, double sum);
};

// Neighbouring columns of one row of a unit of whole rows, see loop_row_units.h. What is null is
// not there, or not wanted.
struct RowRun {
  RowSettings settings;
  int64_t n;
  const void *first, *second, *grad_out;
  const void* weight;  // in the type of the arithmetic
  void *out, *grad_first, *grad_second;
  void* weight_sum;    // in the type of the arithmetic, added to
  const void* shifts;  // the value that `shift` is
  double shift;
  double constants[kRowConstants];
};
struct RowUnitLoop {
  void (*add)(const RowRun&, double* sums);
  void (*forward)(const RowRun&);
  void (*add_backward)(const RowRun&, double* sums);
  void (*backward)(const RowRun&);
};

// Of maxout, over n groups of neighbours.
struct MaxoutLoop {
  void (*forward)(const void* x, int64_t pieces, void* out, uint8_t* winner, int64_t n);
  void (*backward)(const void* grad_out, const uint8_t* winner, int64_t pieces, void* grad_x,
                   int64_t n);
};

// Neighbouring columns of one row in groups of `group`, quantised. All are multiplied by a
// factor and divided; reciprocals are those of the divisors.
struct QuantizeRun {
  Format format;
  // Divisors are in the range below, and quotients finite and at most, to the last bit, the largest
  // number of the format; of e2m1 any finite ones.
  bool bounded;
  int64_t n, group;
  float factor;
  const float *y, *divisors, *reciprocals;
  uint8_t* codes;  // a byte each
};
// Neither the reciprocal of a divisor nor a remainder of a quotient that counts leaves its range.
constexpr float kLeastDivisor = 0x1p-90f, kMostDivisor = 0x1p126f;
// What neighbouring groups of a row are scaled by, see group_scale; reciprocals are those of the
// divisors.
struct ScaleRun {
  Format format;
  bool power, packed;
  float floor, tensor_scale, factor;
  int64_t n;
  const float* largest;
  uint32_t* bits;  // of the scales
  float *divisors, *reciprocals;
};
struct QuantizeLoop {
  void (*largest)(const float* y, int64_t n, int64_t group, float* result);  // of each group
  bool (*scale)(const ScaleRun&);  // whether the groups are bounded
  void (*quantize)(const QuantizeRun&);
  // Two codes of four bits in a byte.
  void (*pack)(const uint8_t* codes, int64_t n, uint8_t* q);
  void (*from_e4m3)(const uint8_t* q, int64_t n, float scale, float* y);
};

struct Loops {
  // Second derivatives, and units that need a parameter, have no loops for calls without options:
  // theirs take all, or all numbers.
  Loop (*glu)(Direction direction, Options options, Variant variant);
  // n elements to the type of the arithmetic, and rounded from it.
  void (*widen)(const void* source, void* target, int64_t n);
  void (*narrow)(const void* source, void* target, int64_t n);
  SoftmaxLoop softmax;
  MaxoutLoop maxout;
  RowUnitLoop row_unit;
  QuantizeLoop quantize;
};

extern const Loops kScalarFloat64, kScalarFloat32, kScalarFloat16, kScalarBFloat16;
extern const Loops kAvx2Float64, kAvx2Float32, kAvx2Float16, kAvx2BFloat16;
extern const Loops kAvx512Float32, kAvx512Float16, kAvx512BFloat16, kAvx512Bf16BFloat16;
extern const Loops kNeonFloat32, kNeonFloat16, kNeonBFloat16;

}  // namespace fused_acts::cpu
