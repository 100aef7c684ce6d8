// The kernels of quantised results of float16.
#include "cuda/quantized_launch.cuh"

template cudaError_t fused_acts::cuda::launch_quantized<fused_acts::Float16>(const QuantizedArgs&,
                                                                             cudaStream_t);
