// Runs kernels where a tensor is. Stable ABI only.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>
#include <string>

#include "ops/tensors.h"

#ifdef USE_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

namespace fused_acts {

// Calls loop(begin, end) for parts of [0, n), in this thread alone where n is at most `grain`.
template <class Loop>
void parallel_for(int64_t n, int64_t grain, Loop loop) {
  if (n <= grain) {
    loop(int64_t{0}, n);
  } else {
    torch::stable::parallel_for(0, n, grain, loop);
  }
}

// Throws the error that a cudaError_t stands for.
inline void check_cuda([[maybe_unused]] int error) {
#ifdef USE_CUDA
  char* message = nullptr;
  check(torch_c10_cuda_check_msg(error, __FILE__, __func__, static_cast<uint32_t>(__LINE__), true,
                                 &message));
  if (message == nullptr) return;
  const std::string text(message);
  torch_c10_cuda_free_error_msg(message);
  throw std::runtime_error(text);
#endif
}

// Calls cuda(stream) on the device of `input`, or cpu(). In a build without CUDA no tensor gets
// here that is not on the CPU, and `cuda` is not compiled into anything.
template <class Cuda, class Cpu>
void run_where_it_is([[maybe_unused]] const View& input, [[maybe_unused]] Cuda cuda, Cpu cpu) {
#ifdef USE_CUDA
  if (input.is_cuda()) {
    const torch::stable::accelerator::DeviceGuard guard(input.device_index);
    void* stream;
    check(aoti_torch_get_current_cuda_stream(input.device_index, &stream));
    check_cuda(cuda(stream));
    return;
  }
#endif
  cpu();
}

// Of partial sums on the device of `input`.
inline void run_reduction(const View& input, const ReduceArgs& args) {
  run_where_it_is(
      input, [&](void* stream) { return cuda::reduce_partials(args, stream); },
      [&] { cpu::reduce_partials(args); });
}

}  // namespace fused_acts
