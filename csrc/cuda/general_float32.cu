#include "general.cuh"

template cudaError_t fused_acts::cuda::launch_general<float>(Direction, const GluArgs&,
                                                             cudaStream_t);
