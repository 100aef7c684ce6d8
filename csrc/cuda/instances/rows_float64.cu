// The row kernels of float64.
#include "cuda/row_kernels.cuh"

template cudaError_t fused_acts::cuda::launch_rows<double>(Direction, const GluArgs&, cudaStream_t);
