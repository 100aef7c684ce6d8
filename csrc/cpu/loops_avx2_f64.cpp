// The loops of float64 for AVX2, a number at a time. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX2_FLOAT64

// clang-format off: before the headers that it is for
#include "cpu/target_avx2.h"
// clang-format on

#include "cpu/all_loops.h"
#include "cpu/simd_scalar.h"

namespace fused_acts::cpu {

const Loops kAvx2Float64 = all_loops<Scalar<double>, double, DType::kFloat64, Math64Of>();

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
