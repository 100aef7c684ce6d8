// From a plan to its flat kernel.
#pragma once

#include "cuda/flat_kernels.cuh"
#include "cuda/launch.h"

namespace fused_acts::cuda {

template <class T, Access access, int bytes>
cudaError_t launch_access(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  using Forward = Config<T, access, bytes, false>;
  using Backward = Config<T, access, bytes, true>;
  const ParamsMaker<typename Forward::Index> params{args, plan};
  const auto grid = static_cast<unsigned>(plan.grid);
  cudaError_t error = cudaErrorInvalidValue;
  visit_flat_variant(args.variant, [&](auto unit) {
    using Unit = decltype(unit);
    constexpr bool kInstantiated = is_instantiated(access, bytes);
    if constexpr (kInstantiated || !Unit::kIsUnary) {
      if (args.grad_out.data == nullptr) {
        error =
            launch_kernel(forward_kernel<Unit, Forward>, grid, kBlock, 0, stream, params.forward());
      } else if (!args.product) {
        error = launch_kernel(backward_kernel<Unit, Backward, false>, grid, kBlock, 0, stream,
                              params.backward());
      } else if constexpr (kInstantiated && !Unit::kIsUnary) {
        error = launch_kernel(backward_kernel<Unit, Backward, true>, grid, kBlock, 0, stream,
                              params.backward());
      }
    }
  });
  return error;
}

// Finds the kernel that was compiled for the plan's access.
template <class T, int bytes>
cudaError_t launch_bytes(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  if constexpr (bytes == sizeof(T)) {
    return launch_access<T, Access::kElement, bytes>(args, plan, stream);
  } else if (plan.access_bytes < bytes) {
    return launch_bytes<T, bytes / 2>(args, plan, stream);
  } else if (plan.access == Access::kInterleaved) {
    return launch_access<T, Access::kInterleaved, bytes>(args, plan, stream);
  } else {
    return launch_access<T, Access::kVector, bytes>(args, plan, stream);
  }
}

template <class T>
cudaError_t launch_flat(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  return launch_bytes<T, widest_compiled()>(args, plan, stream);
}

}  // namespace fused_acts::cuda
