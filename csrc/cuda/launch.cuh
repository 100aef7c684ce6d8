// From a plan to the one launch of a call, for storage type T. Each storage type is a translation
// unit of its own, so that they compile side by side.
#pragma once

#include <cuda_runtime.h>

#include "kernels.cuh"

namespace fused_acts::cuda {

template <class Params>
cudaError_t launch(void (*kernel)(Params), Params params, const LaunchPlan& plan,
                   cudaStream_t stream) {
  void* arguments[] = {&params};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel),
                          dim3(static_cast<unsigned>(plan.grid)),
                          dim3(static_cast<unsigned>(plan.block)), arguments, 0, stream);
}

template <class T, Access access, int bytes>
cudaError_t launch_access(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  using Index = typename Config<T, access, bytes, false>::Index;
  const ParamsMaker<Index> params{args, plan};
  cudaError_t error = cudaErrorInvalidValue;
  visit_variant(args.variant, [&](auto unit) {
    using Unit = decltype(unit);
    if (args.grad_out.data != nullptr) {
      const auto kernel = backward_kernel<Unit, Config<T, access, bytes, true>>;
      error = launch<BackwardParams<Index>>(kernel, params.backward(), plan, stream);
    } else {
      const auto kernel = forward_kernel<Unit, Config<T, access, bytes, false>>;
      error = launch<ForwardParams<Index>>(kernel, params.forward(), plan, stream);
    }
  });
  return error;
}

// Launches the kernel that was compiled for the plan's access.
template <class T, int bytes = 32>
cudaError_t launch_plan(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  if constexpr (bytes == sizeof(T)) {
    return launch_access<T, Access::kElement, bytes>(args, plan, stream);
  } else if (plan.access_bytes < bytes) {
    return launch_plan<T, bytes / 2>(args, plan, stream);
  } else if (plan.access == Access::kInterleaved) {
    return launch_access<T, Access::kInterleaved, bytes>(args, plan, stream);
  } else {
    return launch_access<T, Access::kVector, bytes>(args, plan, stream);
  }
}

}  // namespace fused_acts::cuda
