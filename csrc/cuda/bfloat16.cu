#include "launch.cuh"

namespace fused_acts::cuda {

cudaError_t launch_bfloat16(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  return launch_plan<BFloat16>(args, plan, stream);
}

}  // namespace fused_acts::cuda
