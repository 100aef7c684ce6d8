// The flat kernels of float32.
#include "cuda/flat_launch.cuh"

template cudaError_t fused_acts::cuda::launch_flat<float>(const GluArgs&, const FlatPlan&,
                                                          cudaStream_t);
