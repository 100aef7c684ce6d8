// The options that operators of gated units have in common.
#pragma once

#include "ops/glu_args.h"

namespace fused_acts {

inline const Tensor* pointer(const OptionalTensor& t) { return t ? &*t : nullptr; }

}  // namespace fused_acts

// The options of an operator in its parameters, and as they are given on.
#define FUSED_ACTS_OPTIONS                                                                         \
  const OptionalTensor &gate_bias, const OptionalTensor &up_bias, const OptionalTensor &parameter, \
      double scalar, double second, std::optional<double> limit, double weight, int64_t variant,   \
      int64_t layout
#define FUSED_ACTS_OF_ROWS \
  const OptionalTensor &row_weight, const OptionalTensor &experts, int64_t rows
#define FUSED_ACTS_GIVEN                                                                          \
  Options {                                                                                       \
    pointer(gate_bias), pointer(up_bias), pointer(parameter), pointer(row_weight),                \
        pointer(experts), scalar, second, limit.value_or(kNoLimit), weight, variant, layout, rows \
  }

// The same in schemas.
#define FUSED_ACTS_VECTORS "Tensor? gate_bias, Tensor? up_bias, Tensor? parameter, "
#define FUSED_ACTS_OPTIONS_SCHEMA \
  FUSED_ACTS_VECTORS              \
  "float scalar, float second, float? limit, float weight, int variant, int layout"
#define FUSED_ACTS_OF_ROWS_SCHEMA ", Tensor? row_weight=None, Tensor? experts=None, int rows=0"
