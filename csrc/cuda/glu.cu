// A call to a gated unit: flat kernel or row kernel, plan, launch.
#include <atomic>
#include <cstdlib>

#include "cuda/launch.h"
#include "kernels/glu.h"

namespace fused_acts::cuda {
namespace {

__global__ void probe() {}

// What runs on a device of sm_100 or later is older code when the build has only older PTX for it.
int find_widest_access() {
  // Lets tests run the widest kernels on a device that does not tell what code it runs.
  if (const char* bytes = std::getenv("FUSED_ACTS_WIDEST_ACCESS")) return std::atoi(bytes);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  return error == cudaSuccess && attributes.ptxVersion >= 100 ? 32 : 16;
}

int widest_access() {
  if (widest_compiled() < kWidestAccess) return widest_compiled();

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

cudaError_t run_rows(Direction direction, const GluArgs& args, cudaStream_t stream) {
  return visit_dtype(args.dtype,
                     [&](auto t) { return launch_rows<decltype(t)>(direction, args, stream); });
}

cudaError_t run_flat(Direction direction, const GluArgs& args, cudaStream_t stream) {
  const LaunchPlan plan = make_plan(args, widest_access());
  const bool unary = is_unary(args.variant);
  if ((args.product && unary) ||
      ((args.product || unary) && !is_instantiated(plan.access, plan.access_bytes)))
    return run_rows(direction, args, stream);
  return visit_dtype(args.dtype,
                     [&](auto t) { return launch_flat<decltype(t)>(args, plan, stream); });
}

int run(Direction direction, const GluArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const bool flat = direction != Direction::kDoubleBackward && !args.has_options() && !args.block &&
                    has_flat_kernels(args.variant);
  const auto launch = flat ? run_flat : run_rows;
  return launch(direction, args, static_cast<cudaStream_t>(stream));
}

}  // namespace

int glu_forward(const GluArgs& args, void* stream) {
  return run(Direction::kForward, args, stream);
}

int glu_backward(const GluArgs& args, void* stream) {
  if (!args.grad_gate.data && !args.grad_up.data && !args.row_blocks && !args.product)
    return cudaSuccess;
  return run(Direction::kBackward, args, stream);
}

int glu_double_backward(const GluArgs& args, void* stream) {
  return run(Direction::kDoubleBackward, args, stream);
}

}  // namespace fused_acts::cuda
