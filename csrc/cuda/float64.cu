#include "launch.cuh"

namespace fused_acts::cuda {

cudaError_t launch_float64(const GluArgs& args, const LaunchPlan& plan, cudaStream_t stream) {
  return launch_plan<double>(args, plan, stream);
}

}  // namespace fused_acts::cuda
