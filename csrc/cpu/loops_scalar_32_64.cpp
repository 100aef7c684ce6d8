// The loops of float32 and float64 for any processor.
#include "cpu/all_loops.h"
#include "cpu/simd_scalar.h"

namespace fused_acts::cpu {

const Loops kScalarFloat32 = all_loops<Scalar<float>, float, DType::kFloat32, Math32>();
const Loops kScalarFloat64 = all_loops<Scalar<double>, double, DType::kFloat64, Math64Of>();

}  // namespace fused_acts::cpu
