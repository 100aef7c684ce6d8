// The kernels of quantised results of float32.
#include "cuda/quantized_launch.cuh"

template cudaError_t fused_acts::cuda::launch_quantized<float>(const QuantizedArgs&, cudaStream_t);
