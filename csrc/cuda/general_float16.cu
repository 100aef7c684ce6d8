#include "general.cuh"

template cudaError_t fused_acts::cuda::launch_general<fused_acts::Float16>(Direction,
                                                                           const GluArgs&,
                                                                           cudaStream_t);
