// From a plan to its flat kernel.
#pragma once

#include "cuda/flat_kernels.cuh"
#include "cuda/launch.h"

namespace fused_acts::cuda {

template <class T, Access access, int bytes, bool plain>
cudaError_t launch_access(const GluArgs& args, const FlatPlan& plan, cudaStream_t stream) {
  using C = Config<T, access, bytes, plain>;
  const ParamsMaker params{args, plan};
  const auto grid = static_cast<unsigned>(plan.grid);
  const auto launch = [&](auto unit) -> cudaError_t {
    using Unit = decltype(unit);
    if constexpr (!(plain || kTakesNumbers<Unit>) ||
                  (Unit::kIsUnary && access == Access::kInterleaved)) {
      return cudaErrorInvalidValue;  // for which there is no plan
    } else {
      if (args.grad_out.data == nullptr)
        return launch_kernel(forward_kernel<Unit, C>, grid, kBlock, 0, stream, params.forward());
      if constexpr (!Unit::kIsUnary) {
        if (args.product || !plain)
          return launch_kernel(backward_kernel<Unit, C, true>, grid, kBlock, 0, stream,
                               params.backward());
      }
      if constexpr (plain || Unit::kIsUnary)
        return launch_kernel(backward_kernel<Unit, C, false>, grid, kBlock, 0, stream,
                             params.backward());
      return cudaErrorInvalidValue;
    }
  };
  if constexpr (plain) {
    return visit_plain_variant(args.unit->variant, launch);
  } else {
    return visit_variant(args.unit->variant, launch);
  }
}

template <class T, int bytes>
cudaError_t launch_bytes(const GluArgs& args, const FlatPlan& plan, cudaStream_t stream) {
  const bool interleaved = plan.access == Access::kInterleaved;
  if (plan.plain)
    return interleaved ? launch_access<T, Access::kInterleaved, bytes, true>(args, plan, stream)
                       : launch_access<T, Access::kVector, bytes, true>(args, plan, stream);
  return interleaved ? launch_access<T, Access::kInterleaved, bytes, false>(args, plan, stream)
                     : launch_access<T, Access::kVector, bytes, false>(args, plan, stream);
}

// Finds the kernel that was compiled for the plan's access.
template <class T>
cudaError_t launch_flat(const GluArgs& args, const FlatPlan& plan, cudaStream_t stream) {
  if constexpr (widest_compiled() == 32) {
    if (plan.access_bytes == 32) return launch_bytes<T, 32>(args, plan, stream);
  }
  return launch_bytes<T, 16>(args, plan, stream);
}

}  // namespace fused_acts::cuda
