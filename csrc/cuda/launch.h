// The launchers of the storage types.
#pragma once

#include <cuda_runtime_api.h>

#include "numeric.h"
#include "plan.h"

namespace fused_acts::cuda {

// The one launch of a call; backward if it has a grad_out. Defined in launch.cuh and instantiated
// in a translation unit for each storage type T.
template <class T>
cudaError_t launch(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream);

// The same for a call in any direction with any options; defined in general.cuh.
template <class T>
cudaError_t launch_general(Direction direction, const GluArgs& args, cudaStream_t stream);

}  // namespace fused_acts::cuda
