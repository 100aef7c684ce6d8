// The loops of float16 for Neon. Nothing but them leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_NEON

#include "cpu/loop.h"
#include "cpu/simd_neon.h"

namespace fused_acts::cpu {

const Loops kNeonFloat16 = {glu_loop<Neon, Float16, Math16>, widen<Neon, Float16>};

}  // namespace fused_acts::cpu

#endif
