// Dense runs of elements: the innermost loops, one implementation per instruction set.
#pragma once

#include <cstdint>

#include "../glu.h"
#include "../numeric.h"

namespace fused_acts::cpu {

// All operands hold n elements of one dtype, 1 element apart. An output may be the very same memory
// as an input. streams: the outputs are too large to be found in the caches again, so write past
// them where that is possible. backward also writes the product, where that is not null.
struct DenseLoops {
  void (*forward)(const void* gate, const void* up, void* out, int64_t n, bool streams);
  void (*backward)(const void* grad_out, const void* gate, const void* up, void* grad_gate,
                   void* grad_up, void* product, int64_t n, bool streams);
};

// Auto-vectorised, for any processor; they do not stream. None for activations alone.
DenseLoops portable_loops(Variant variant, DType dtype);

// For processors with AVX-512 (F, BW, DQ, VL); null for float64, whose functions are scalar.
DenseLoops avx512_loops(Variant variant, DType dtype);

// A run of n columns, 1 element apart, of a call with options. What all rows share and the sums are
// in the type of the arithmetic. An output or sum that is null is not wanted; an input is null only
// where the direction does not read it.
struct GeneralRun {
  int64_t n;
  double limit;
  const void *gate_bias, *up_bias, *parameter;
  const void *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  void *out, *grad_gate, *grad_up;
  void *gate_sum, *up_sum, *parameter_sum;  // added to
};
using GeneralLoop = void (*)(const GeneralRun&);

constexpr int64_t kTile = 1024;  // columns of a run at most, where it goes through buffers

// As above; the portable ones take runs of up to kTile columns.
GeneralLoop portable_general_loop(Direction direction, Variant variant, DType dtype);
GeneralLoop avx512_general_loop(Direction direction, Variant variant, DType dtype);

enum class Capability { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };
Capability processor_capability();

// The storage type of a dtype, passed to a visitor as a value.
template <class Visitor>
auto visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::kFloat64:
      return visitor(double{});
    case DType::kFloat32:
      return visitor(float{});
    case DType::kFloat16:
      return visitor(Float16{});
    default:
      return visitor(BFloat16{});
  }
}

}  // namespace fused_acts::cpu
