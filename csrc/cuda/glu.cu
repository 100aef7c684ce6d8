// cuda::glu_forward and cuda::glu_backward: plan, then launch.
#include <atomic>
#include <cstdlib>

#include "glu.h"
#include "launch.h"

namespace fused_acts::cuda {
namespace {

__global__ void probe() {}

// 32-byte accesses exist in code compiled for sm_100 or later, which is not what runs on such a
// device when the build has only older PTX for it.
int find_widest_access() {
  // Lets tests run the widest kernels on a device that does not tell what code it runs.
  if (const char* bytes = std::getenv("FUSED_ACTS_WIDEST_ACCESS")) return std::atoi(bytes);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  return error == cudaSuccess && attributes.ptxVersion >= 100 ? 32 : 16;
}

int widest_access() {
  constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
  bool has_wide_code = false;
  for (const int architecture : kArchitectures) has_wide_code |= architecture >= 1000;
  if (!has_wide_code) return 16;

  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];  // 0: not yet
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return 16;
  int bytes = known[device].load(std::memory_order_relaxed);
  if (bytes == 0) {
    bytes = find_widest_access();
    known[device].store(bytes, std::memory_order_relaxed);
  }
  return bytes;
}

cudaError_t plan_and_launch(const GluArgs& args, cudaStream_t stream) {
  const LaunchPlan plan = make_plan(args, widest_access());
  switch (args.dtype) {
    case DType::kFloat64:
      return launch<double>(args, plan, stream);
    case DType::kFloat32:
      return launch<float>(args, plan, stream);
    case DType::kFloat16:
      return launch<Float16>(args, plan, stream);
    case DType::kBFloat16:
      return launch<BFloat16>(args, plan, stream);
  }
  return cudaErrorInvalidValue;
}

int run(const GluArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const cudaError_t error = plan_and_launch(args, static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and to nobody else
  return error;
}

}  // namespace

int glu_forward(const GluArgs& args, void* stream) { return run(args, stream); }

int glu_backward(const GluArgs& args, void* stream) {
  if (args.grad_gate.data == nullptr && args.grad_up.data == nullptr) return cudaSuccess;
  return run(args, stream);
}

}  // namespace fused_acts::cuda
