// The loops of bfloat16 for AVX2. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX2

// clang-format off: before the headers that it is for
#include "cpu/target_avx2.h"
// clang-format on

#include "cpu/loop.h"
#include "cpu/simd_avx2.h"

namespace fused_acts::cpu {

const Loops kAvx2BFloat16 = {glu_loop<Avx2, BFloat16, Math16>, widen<Avx2, BFloat16>};

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
