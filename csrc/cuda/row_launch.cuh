// From a plan to its row kernel.
#pragma once

#include "cuda/launch.h"
#include "cuda/row_kernels.cuh"

namespace fused_acts::cuda {

inline RowParams row_params(const RowPlan& plan) {
  const GluArgs& args = plan.args;
  const auto operand = [&](const Matrix& m) {
    return RowOperand{static_cast<char*>(m.data),
                      static_cast<uint32_t>(args.rows == 1 ? 0 : m.row_stride / plan.columns)};
  };
  return {operand(args.gate),
          operand(args.up),
          operand(args.out),
          operand(args.grad_out),
          operand(args.grad_gate),
          operand(args.grad_up),
          static_cast<float>(args.limit),
          static_cast<float>(args.weight),
          static_cast<uint32_t>(args.cols),
          static_cast<uint32_t>(plan.last_cols),
          static_cast<uint32_t>(args.block),
          make_divider(plan.tiles),
          make_divider(std::max<int64_t>(args.block, 1)),
          {args.experts, static_cast<int32_t>(args.rows), make_divider(plan.rows_per_segment)},
          plan.log2_lanes,
          plan.pairs,
          args.product,
          args.segment_rows > 0,
          args.grad_gate.data != nullptr,
          args.grad_up.data != nullptr,
          {static_cast<float*>(args.sums[0]), static_cast<float*>(args.sums[1]),
           static_cast<float*>(args.sums[2]), static_cast<float*>(args.sums[3])},
          args.counters,
          // adding -0 changes nothing, not even the sign of 0
          {{args.gate_bias, -0.0f},
           {args.up_bias, -0.0f},
           {args.parameters[0], static_cast<float>(args.scalars[0])},
           {args.parameters[1], static_cast<float>(args.scalars[1])}},
          args.unit->variant,
          args.zeroes_padding,
          args.row_weight,
          static_cast<float*>(args.weight_sums)};
}

template <class C>
cudaError_t launch_config(const RowPlan& plan, cudaStream_t stream) {
  const RowParams params = row_params(plan);
  const auto grid = static_cast<unsigned>(plan.tiles * plan.segments);
  size_t sums = 0;  // up to the last that is wanted
  for (int i = 0; i < kColumnValues; ++i)
    if (params.sums[i]) sums = i + 1;
  const auto launch = [&](auto kernel) {
    return launch_kernel(kernel, grid, kBlock, sums * kBlock * C::kColumns * sizeof(float), stream,
                         params);
  };
  if constexpr (C::kRouted) {
    return launch(row_kernel<AnyUnit, C>);
  } else {
    return visit_variant(plan.args.unit->variant, [&](auto unit) -> cudaError_t {
      using Unit = decltype(unit);
      if constexpr (C::kLearned && !Unit::kHasParameter) {
        return cudaErrorInvalidValue;  // a unit without parameters learns none
      } else {
        return launch(row_kernel<Unit, C>);
      }
    });
  }
}

template <class T>
cudaError_t launch_rows(const RowPlan& plan, cudaStream_t stream) {
  if (plan.routed)
    return plan.args.grad_out.data
               ? launch_config<RowConfig<T, 16, true, false, true>>(plan, stream)
               : launch_config<RowConfig<T, 16, false, false, true>>(plan, stream);
  if (plan.args.grad_out.data) {
    const bool learned = plan.args.sums[2] || plan.args.sums[3];
    return learned ? launch_config<RowConfig<T, 16, true, true>>(plan, stream)
                   : launch_config<RowConfig<T, 16, true, false>>(plan, stream);
  }
  if constexpr (widest_compiled() == 32) {
    if (plan.access_bytes == 32) return launch_config<RowConfig<T, 32, false, false>>(plan, stream);
  }
  return launch_config<RowConfig<T, 16, false, false>>(plan, stream);
}

}  // namespace fused_acts::cuda
