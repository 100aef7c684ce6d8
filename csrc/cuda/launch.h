// The launchers of the storage types.
#pragma once

#include <cuda_runtime_api.h>

#include "math/storage.h"
#include "cuda/plan.h"

namespace fused_acts::cuda {

// 32-byte accesses exist in code compiled for sm_100 or later.
constexpr int widest_compiled() {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
  for (const int architecture : kArchitectures)
    if (architecture >= 1000) return kWidestAccess;
  return 16;
}

// The one launch of a call; backward if it has a grad_out. Defined in launch.cuh and instantiated
// in a translation unit for each storage type T.
template <class T>
cudaError_t launch(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream);

// The same for a call in any direction with any options; defined in general.cuh.
template <class T>
cudaError_t launch_rows(Direction direction, const GluArgs& args, cudaStream_t stream);

}  // namespace fused_acts::cuda
