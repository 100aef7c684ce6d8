#include "launch.cuh"

namespace fused_acts::cuda {

cudaError_t launch_float32(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  return launch_plan<float>(args, plan, stream);
}

}  // namespace fused_acts::cuda
