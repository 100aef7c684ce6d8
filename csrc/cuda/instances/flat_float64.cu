#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch<double>(const GluArgs&, const LaunchPlan&,
                                                      cudaStream_t);
