// The flat kernels of bfloat16.
#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch_flat<fused_acts::BFloat16>(const GluArgs&,
                                                                         const FlatPlan&,
                                                                         cudaStream_t);
