// The loops of float32 for Neon. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_NEON

#include "cpu/loop.h"
#include "cpu/simd_neon.h"

namespace fused_acts::cpu {

const Loops kNeonFloat32 = {glu_loop<Neon, float, Math32>, widen<Neon, float>};

}  // namespace fused_acts::cpu

#endif
