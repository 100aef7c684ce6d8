#include "launch.cuh"

namespace fused_acts::cuda {

cudaError_t launch_float16(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  return launch_plan<Float16>(args, plan, stream);
}

}  // namespace fused_acts::cuda
