// The one way to launch a kernel, and the launchers of the storage types.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/plan.h"

namespace fused_acts::cuda {

// An error is reported by whom it is returned to, and to nobody else.
inline cudaError_t reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, Params... params) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  void* arguments[] = {&params...};
  return reported(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
}

// 32-byte accesses exist in code compiled for sm_100 or later.
constexpr int widest_compiled() {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
  for (const int architecture : kArchitectures)
    if (architecture >= 1000) return kWidestAccess;
  return 16;
}

// The one launch of a call to a flat kernel; backward if it has a grad_out. Defined in
// flat_launch.cuh and instantiated in a translation unit for each storage type T.
template <class T>
cudaError_t launch_flat(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream);

// The same for a row kernel, in any direction with any options; defined in row_kernels.cuh.
template <class T>
cudaError_t launch_rows(Direction direction, const GluArgs& args, cudaStream_t stream);

}  // namespace fused_acts::cuda
