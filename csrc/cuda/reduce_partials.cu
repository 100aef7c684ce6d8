// Sums over rows from the partial ones of row blocks.
#include "cuda/launch.h"
#include "kernels/glu.h"

namespace fused_acts::cuda {
namespace {

constexpr int kThreads = 1024;

// A thread adds up a column; where that is to become a single sum, one block adds all of them.
template <class Real>
__global__ void reduce_kernel(const Real* partials, Real* sums, int64_t row_blocks, int64_t cols,
                              bool total) {
  const int64_t index = blockIdx.y;
  const bool is_total = total && index == gridDim.y - 1;
  if (is_total && blockIdx.x > 0) return;
  double sum = 0;  // a float would lose digits over long rows
  int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; column < cols; column += blockDim.x) {
    for (int64_t row_block = 0; row_block < row_blocks; ++row_block)
      sum += partials[(index * row_blocks + row_block) * cols + column];
    if (!is_total) break;
  }
  if (!is_total) {
    if (column < cols) sums[index * cols + column] = static_cast<Real>(sum);
    return;
  }
  __shared__ double shared[kThreads];
  shared[threadIdx.x] = sum;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[index * cols] = static_cast<Real>(shared[0]);
}

template <class Real>
cudaError_t reduce(const ReduceArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.cols + kThreads - 1) / kThreads),
                  static_cast<unsigned>(args.count));
  return launch_kernel(reduce_kernel<Real>, grid, kThreads, 0, stream,
                       static_cast<const Real*>(args.partials), static_cast<Real*>(args.sums),
                       args.row_blocks, args.cols, args.total);
}

}  // namespace

int reduce_partials(const ReduceArgs& args, void* stream) {
  if (args.cols == 0 || args.count == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return args.is_double ? reduce<double>(args, cuda_stream) : reduce<float>(args, cuda_stream);
}

}  // namespace fused_acts::cuda
