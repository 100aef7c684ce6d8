// The loops of float16 for AVX-512. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX512

// clang-format off: before the headers that it is for
#include "cpu/target_avx512.h"
// clang-format on

#include "cpu/all_loops.h"
#include "cpu/simd_avx512.h"

namespace fused_acts::cpu {

const Loops kAvx512Float16 = all_loops<Avx512, Float16, DType::kFloat16, Math16>();

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
