// The loops of float32 and float64 for any processor.
#include "cpu/loop.h"
#include "cpu/simd_scalar.h"

namespace fused_acts::cpu {
namespace {

template <class>
using ScalarMath64 = Math64;

}  // namespace

const Loops kScalarFloat32 = {glu_loop<Scalar<float>, float, Math32>,
 widen<Scalar<float>, float>};
const Loops kScalarFloat64 = {glu_loop<Scalar<double>, double, ScalarMath64>,
 widen<Scalar<double>, double>};

}  // namespace fused_acts::cpu
