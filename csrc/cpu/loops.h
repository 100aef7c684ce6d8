// The innermost loops, over runs of neighbouring elements; one implementation an instruction set.
#pragma once

#include <cstdint>

#include "kernels/glu.h"
#include "math/storage.h"

namespace fused_acts::cpu {

constexpr int64_t kTile = 1024;  // columns of a run at most, where it goes through buffers

// For calls without row operands. All operands hold n elements of one dtype, 1 element apart; an
// output may be the very same memory as an input. non_temporal: the outputs are too large to be
// found in the caches again, so write past them where that is possible. backward also writes the
// product, where that is not null. The last two have gate and up, and their gradients, as pairs of
// neighbours; null where there are none.
struct FlatLoops {
  void (*forward)(const void* gate, const void* up, void* out, int64_t n, bool non_temporal);
  void (*backward)(const void* grad_out, const void* gate, const void* up, void* grad_gate,
                   void* grad_up, void* product, int64_t n, bool non_temporal);
  void (*forward_pairs)(const void* gate_up, void* out, int64_t n, bool non_temporal);
  void (*backward_pairs)(const void* grad_out, const void* gate_up, void* grads, void* product,
                         int64_t n);
};

// n columns of one row, 1 element apart, with any options. Row vectors and sums are in the type of
// the arithmetic. An output or sum that is null is not wanted; an input is null only where the
// direction does not read it. pairs: gate and up are neighbours at `gate`, and so are their
// gradients at grad_gate, if one is wanted.
struct RowRun {
  int64_t n;
  bool pairs;
  double limit;
  const void *gate_bias, *up_bias, *parameter;
  const void *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  void *out, *grad_gate, *grad_up;
  void *gate_sum, *up_sum, *parameter_sum;  // added to
};
using RowLoop = void (*)(const RowRun&);

// Auto-vectorised, for any processor; their stores are never non-temporal, and row loops take up to
// kTile columns. Flat ones serve no activations.
FlatLoops portable_flat_loops(Variant variant, DType dtype);
template <class T>  // defined in loops_portable.h and instantiated for each storage type
RowLoop portable_row_loop(Direction direction, Variant variant);

// For AVX-512 (F, BW, DQ, VL), in builds that have FUSED_ACTS_HAS_AVX512. None for float64, whose
// functions are scalar. bf16: with the conversion instruction of AVX512-BF16.
FlatLoops avx512_flat_loops(Variant variant, DType dtype, bool bf16);
RowLoop avx512_row_loop(Direction direction, Variant variant, DType dtype);

}  // namespace fused_acts::cpu
