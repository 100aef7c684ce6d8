// The general kernels of float16.
#include "cuda/general_launch.cuh"

template cudaError_t fused_acts::cuda::launch_general<fused_acts::Float16>(Direction,
                                                                           const RowPlan&,
                                                                           cudaStream_t);
