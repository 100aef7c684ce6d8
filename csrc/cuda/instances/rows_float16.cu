// The row kernels of float16.
#include "cuda/row_launch.cuh"

template cudaError_t fused_acts::cuda::launch_rows<fused_acts::Float16>(const RowPlan&,
                                                                        cudaStream_t);
