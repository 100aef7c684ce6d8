// The general kernels of bfloat16.
#include "cuda/general_launch.cuh"

template cudaError_t fused_acts::cuda::launch_general<fused_acts::BFloat16>(Direction,
                                                                            const RowPlan&,
                                                                            cudaStream_t);
