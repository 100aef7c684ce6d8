// The code of a unit of the tables that a library is compiled with.
#pragma once

#include "kernels/glu.h"
#include "kernels/quantized.h"
#include "kernels/unit_code.h"

namespace fused_acts {

#ifdef USE_CUDA
constexpr UnitKernels kUnitKernels{cuda::glu_forward, cuda::glu_backward, cuda::glu_double_backward,
                                   cuda::column_tiles, cuda::glu_quantized};
#else
constexpr UnitKernels kUnitKernels{};
#endif

constexpr UnitCode unit_code(Variant variant) {
  return visit_variant(variant, [variant](auto unit) {
    using Unit = decltype(unit);
    return UnitCode{variant,
                    Unit::kIsUnary,
                    kHasPlainKernels<Unit>,
                    kTakesNumbers<Unit>,
                    Unit::kHasParameter + Unit::kHasSecond,
                    usual_parameter<Unit>(),
                    cpu::loops_for,
                    kUnitKernels};
  });
}

}  // namespace fused_acts
