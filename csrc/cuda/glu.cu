// cuda::glu_forward, glu_backward and glu_double_backward: plan, then launch.
#include <atomic>
#include <cstdlib>

#include "kernels/glu.h"
#include "cuda/launch.h"

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
  switch (args.dtype) {
    case DType::kFloat64:
      return launch_rows<double>(direction, args, stream);
    case DType::kFloat32:
      return launch_rows<float>(direction, args, stream);
    case DType::kFloat16:
      return launch_rows<Float16>(direction, args, stream);
    case DType::kBFloat16:
      return launch_rows<BFloat16>(direction, args, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t plan_and_launch(const GluArgs& args, cudaStream_t stream) {
  const LaunchPlan plan = make_plan(args, widest_access());
  const Direction direction = args.grad_out.data ? Direction::kBackward : Direction::kForward;
  if ((args.product || is_unary(args.variant)) &&
      !is_instantiated(plan.access, plan.access_bytes))
    return run_rows(direction, args, stream);
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

int reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();  // reported here, and to nobody else
  return error;
}

int run(Direction direction, const GluArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const bool common =
      direction != Direction::kDoubleBackward && !args.has_options() && has_flat_kernels(args.variant);
  return reported(common ? plan_and_launch(args, cuda_stream)
                         : run_rows(direction, args, cuda_stream));
}

// A thread adds up a column; where that is to become a single sum, one block adds all of them.
template <class Real>
__global__ void reduce_partials_kernel(const Real* partial, Real* sums, int64_t row_blocks, int64_t cols,
                                  bool total) {
  const int64_t kind = blockIdx.y;
  const bool is_total = total && kind == gridDim.y - 1;
  if (is_total && blockIdx.x > 0) return;
  double sum = 0;  // a float would lose digits over long rows
  int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; column < cols; column += blockDim.x) {
    for (int64_t row_block = 0; row_block < row_blocks; ++row_block)
      sum += partial[(kind * row_blocks + row_block) * cols + column];
    if (!is_total) break;
  }
  if (!is_total) {
    if (column < cols) sums[kind * cols + column] = static_cast<Real>(sum);
    return;
  }
  __shared__ double shared[1024];
  shared[threadIdx.x] = sum;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[kind * cols] = static_cast<Real>(shared[0]);
}

template <class Real>
cudaError_t launch_reduce_partials(const ReduceArgs& args, cudaStream_t stream) {
  constexpr int kThreads = 1024;
  const dim3 grid(static_cast<unsigned>((args.cols + kThreads - 1) / kThreads),
                  static_cast<unsigned>(args.sum_count));
  reduce_partials_kernel<<<grid, kThreads, 0, stream>>>(static_cast<const Real*>(args.partial),
                                                   static_cast<Real*>(args.sums), args.row_blocks,
                                                   args.cols, args.total);
  return cudaGetLastError();
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

int glu_double_backward(const GluArgs& args, void* stream) { return run(Direction::kDoubleBackward, args, stream); }

int reduce_partials(const ReduceArgs& args, void* stream) {
  if (args.cols == 0 || args.sum_count == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return reported(args.is_double ? launch_reduce_partials<double>(args, cuda_stream)
                                 : launch_reduce_partials<float>(args, cuda_stream));
}

}  // namespace fused_acts::cuda
