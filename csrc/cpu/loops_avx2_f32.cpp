// The loops of float32 for AVX2. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX2

// clang-format off: before the headers that it is for
#include "cpu/target_avx2.h"
// clang-format on

#include "cpu/all_loops.h"
#include "cpu/simd_avx2.h"

namespace fused_acts::cpu {

const Loops kAvx2Float32 = all_loops<Avx2, float, DType::kFloat32, Math32>();

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
