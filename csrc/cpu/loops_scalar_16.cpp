// The loops of float16 and bfloat16 for any processor.
#include "cpu/all_loops.h"
#include "cpu/simd_scalar.h"

namespace fused_acts::cpu {

const Loops kScalarFloat16 = all_loops<Scalar<float>, Float16, DType::kFloat16, Math16>();
const Loops kScalarBFloat16 = all_loops<Scalar<float>, BFloat16, DType::kBFloat16, Math16>();

}  // namespace fused_acts::cpu
