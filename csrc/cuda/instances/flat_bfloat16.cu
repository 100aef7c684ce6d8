#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch<fused_acts::BFloat16>(const GluArgs&,
                                                                    const LaunchPlan&,
                                                                    cudaStream_t);
