// A launch on the device of a tensor. Stable ABI only.
#pragma once

#include "operands.h"

#ifdef FUSED_ACTS_WITH_CUDA
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

namespace fused_acts {

// Calls launch(stream) on the device of `input`.
template <class Launch>
void run_on_cuda(const Tensor& input, Launch launch) {
  const int32_t device = input.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  check_cuda(launch(stream));
}

}  // namespace fused_acts
#endif
