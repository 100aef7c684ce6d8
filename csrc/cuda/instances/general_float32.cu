// The general kernels of float32.
#include "cuda/general_launch.cuh"

template cudaError_t fused_acts::cuda::launch_general<float>(Direction, const RowPlan&,
                                                             cudaStream_t);
