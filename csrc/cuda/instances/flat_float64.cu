// The flat kernels of float64.
#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch_flat<double>(const GluArgs&, const LaunchPlan&,
                                                           cudaStream_t);
