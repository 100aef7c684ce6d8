// The one way to launch a kernel, and the launchers of the storage types.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/plan.h"
#include "kernels/quantized.h"

namespace fused_acts::cuda {

// An error is reported by whom it is returned to, and to nobody else.
inline cudaError_t reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

// The __CUDA_ARCH__ / 10 of the code that the current device runs, 0 if that can't be told.
int code_architecture();

// Bytes of shared memory of a block: to be had without asking, and at most, so that two blocks fit
// on a multiprocessor.
constexpr int64_t kUsualShared = 40 << 10, kMostShared = 96 << 10;

// Asks for kMostShared, whatever a call needs: calls from several threads share the setting.
cudaError_t allow_most_shared(const void* kernel);

// The kernel's threads wait for the kernel ahead of it themselves (dependent_launch.cuh), if their
// code was compiled with it.
template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, Params... params) {
  const auto function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > kUsualShared)
    if (const cudaError_t error = allow_most_shared(function)) return error;
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &dependent;
  config.numAttrs = code_architecture() >= 90 ? 1 : 0;
  void* arguments[] = {&params...};
  return reported(cudaLaunchKernelExC(&config, function, arguments));
}

// 32-byte accesses exist in code compiled for sm_100 or later.
constexpr int widest_compiled() {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
  for (const int architecture : kArchitectures)
    if (architecture >= 1000) return kWidestAccess;
  return 16;
}

// The storage types of all kernels but the general ones.
template <class Visitor>
cudaError_t visit_wide(DType dtype, Visitor visitor) {
  return visit_dtype(dtype, [&](auto t) -> cudaError_t {
    if constexpr (sizeof(t) == 8) {
      return cudaErrorInvalidValue;  // float64, which no caller has
    } else {
      return visitor(t);
    }
  });
}

// The one launch of a call, for each kind of kernel: backward if it has a grad_out. Defined in
// flat_launch.cuh, row_launch.cuh, general_launch.cuh and quantized_launch.cuh, and instantiated in
// a translation unit for each storage type T.
template <class T>
cudaError_t launch_flat(const GluArgs& args, const FlatPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_rows(const RowPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_general(Direction direction, const RowPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_quantized(const QuantizedArgs& args, cudaStream_t stream);

}  // namespace fused_acts::cuda
