// The row kernels of bfloat16.
#include "cuda/row_launch.cuh"

template cudaError_t fused_acts::cuda::launch_rows<fused_acts::BFloat16>(const RowPlan&,
                                                                         cudaStream_t);
