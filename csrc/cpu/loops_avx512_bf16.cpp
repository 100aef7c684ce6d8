// The loops of bfloat16 for AVX-512. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX512

// clang-format off: before the headers that it is for
#include "cpu/target_avx512.h"
// clang-format on

#include "cpu/loop.h"
#include "cpu/simd_avx512.h"

namespace fused_acts::cpu {

const Loops kAvx512BFloat16 = {glu_loop<Avx512, BFloat16, MathBFloat16, Math16>, widen<Avx512, BFloat16>};

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
