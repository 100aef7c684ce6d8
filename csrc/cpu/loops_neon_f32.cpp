// The loops of float32 for Neon. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_NEON

#include "cpu/all_loops.h"
#include "cpu/simd_neon.h"

namespace fused_acts::cpu {

const Loops kNeonFloat32 = all_loops<Neon, float, DType::kFloat32, Math32>();

}  // namespace fused_acts::cpu

#endif
