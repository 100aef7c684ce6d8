#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch<float>(const GluArgs&, const LaunchPlan&,
                                                     cudaStream_t);
