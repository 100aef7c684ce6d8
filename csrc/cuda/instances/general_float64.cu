// The general kernels of float64.
#include "cuda/general_launch.cuh"

template cudaError_t fused_acts::cuda::launch_general<double>(Direction, const RowPlan&,
                                                              cudaStream_t);
