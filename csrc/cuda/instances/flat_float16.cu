// The flat kernels of float16.
#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch_flat<fused_acts::Float16>(const GluArgs&,
                                                                        const FlatPlan&,
                                                                        cudaStream_t);
