// Sums over rows from the partial ones of row blocks.
#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "kernels/glu.h"

namespace fused_acts::cuda {
namespace {

// A block adds up kColumns columns, each in kStrands parts of the row blocks side by side.
constexpr int kColumns = 32, kStrands = 32, kThreads = kColumns * kStrands;

// Where a column is to become a single sum, one block goes on to add all of them.
template <class Real>
__global__ void __launch_bounds__(kThreads, 2)
    reduce_kernel(const Real* partials, Real* sums, int64_t row_blocks, int64_t cols,
                  int64_t totals) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int64_t index = blockIdx.y, first_total = gridDim.y - totals;
  const bool is_total = index >= first_total;
  if (is_total && blockIdx.x > 0) return;
  double sum = 0;  // a float would lose digits over long rows
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  for (int64_t column = first; column < cols; column += kColumns) {
    for (int64_t row_block = threadIdx.x / kColumns; row_block < row_blocks; row_block += kStrands)
      sum += partials[(index * row_blocks + row_block) * cols + column];
    if (!is_total) break;
  }
  __shared__ double shared[kThreads];
  shared[threadIdx.x] = sum;
  const unsigned left = is_total ? 1 : kColumns;
  for (unsigned half = kThreads / 2; half >= left; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x < left && first < cols)
    sums[is_total ? first_total * cols + index - first_total : index * cols + first] =
        static_cast<Real>(shared[threadIdx.x]);
}

template <class Real>
cudaError_t reduce(const ReduceArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.cols + kColumns - 1) / kColumns),
                  static_cast<unsigned>(args.count));
  return launch_kernel(reduce_kernel<Real>, grid, kThreads, 0, stream,
                       static_cast<const Real*>(args.partials), static_cast<Real*>(args.sums),
                       args.row_blocks, args.cols, args.totals);
}

}  // namespace

int reduce_partials(const ReduceArgs& args, void* stream) {
  if (args.cols == 0 || args.count == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return args.is_double ? reduce<double>(args, cuda_stream) : reduce<float>(args, cuda_stream);
}

}  // namespace fused_acts::cuda
