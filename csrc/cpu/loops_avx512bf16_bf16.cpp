// The loops of bfloat16 for AVX-512 with BF16. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX512_BF16

// clang-format off: before the headers that it is for
#include "cpu/target_avx512.h"
// clang-format on

#include "cpu/all_loops.h"
#include "cpu/simd_avx512.h"

namespace fused_acts::cpu {

const Loops kAvx512Bf16BFloat16 =
    all_loops<Avx512Bf16, BFloat16, DType::kBFloat16, MathBFloat16, Math16>();

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
