// The loops of float16 for Neon. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_NEON

#include "cpu/all_loops.h"
#include "cpu/simd_neon.h"

namespace fused_acts::cpu {

const Loops kNeonFloat16 = all_loops<Neon, Float16, DType::kFloat16, Math16>();

}  // namespace fused_acts::cpu

#endif
