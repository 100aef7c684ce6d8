// The loops of float16 and bfloat16 for any processor.
#include "cpu/loop.h"
#include "cpu/simd_scalar.h"

namespace fused_acts::cpu {

const Loops kScalarFloat16 = {glu_loop<Scalar<float>, Float16, Math16>,
 widen<Scalar<float>, Float16>};
const Loops kScalarBFloat16 = {glu_loop<Scalar<float>, BFloat16, Math16>,
 widen<Scalar<float>, BFloat16>};

}  // namespace fused_acts::cpu
