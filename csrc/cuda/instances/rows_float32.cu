// The row kernels of float32.
#include "cuda/row_launch.cuh"

template cudaError_t fused_acts::cuda::launch_rows<float>(const RowPlan&, cudaStream_t);
