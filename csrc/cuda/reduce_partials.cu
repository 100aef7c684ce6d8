// Sums from partial ones: over rows from those of segments, over columns from those of tiles.
#include <algorithm>
#include <limits>

#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "cuda/vector.cuh"
#include "kernels/glu.h"

namespace fused_acts::cuda {
namespace {

// A block adds up kColumns columns, kStrands partial sums side by side.
constexpr int kColumns = 32, kStrands = 32, kThreads = kColumns * kStrands;

// Adds up kThreads values to the first `left` of them, always in the same order: in double, for a
// float would lose digits over long rows.
FUSED_ACTS_DEVICE double add_up(double value, unsigned left) {
  __shared__ double values[kThreads];
  __syncthreads();
  values[threadIdx.x] = value;
  for (unsigned half = kThreads / 2; half >= left; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
  }
  return values[threadIdx.x];
}

template <class T, class Real>
FUSED_ACTS_DEVICE void store_rounded(const RowSum& sum, int64_t index, double value) {
  const auto store_as = [&](auto type) {
    using S = decltype(type);
    Vector<S, 1> rounded;
    set(rounded, 0, static_cast<Real>(value));
    store(rounded, static_cast<char*>(sum.data) + index * sizeof(S));
  };
  sum.in_real ? store_as(Real{}) : store_as(T{});
}

// The sums that there are of each column.
FUSED_ACTS_INLINE int64_t results_of(const ReduceArgs& args, const RowSum& sum) {
  return sum.by_expert ? args.segments.experts.count : 1;
}

// Of a total every block leaves its own part where its first partial sum was, and the block that is
// the last to do so adds up all parts.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    reduce_kernel(const __grid_constant__ ReduceArgs args) {
  using Real = typename MathFor<T>::type::Real;
  let_next_kernel_start();
  const RowSum& sum = args.sums[blockIdx.y];
  Real* const partials = static_cast<Real*>(sum.partials.data);
  const auto blocks = static_cast<unsigned>((sum.cols + kColumns - 1) / kColumns);
  const unsigned expert = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const int64_t column = int64_t{block} * kColumns + threadIdx.x % kColumns;
  wait_for_previous_kernel();
  if (expert >= results_of(args, sum)) return;

  const Parts parts = sum.by_expert ? args.segments.parts_of(expert) : Parts{0, sum.parts, -1};
  double value = 0;
  if (column < sum.cols) {
    const Real* from = partials + column;
    if (parts.more >= 0 && threadIdx.x < kColumns)
      value = from[parts.more * sum.partials.row_stride];
    // fewer than a launch has blocks
    const auto end = static_cast<unsigned>(parts.end);
    for (unsigned i = static_cast<unsigned>(parts.begin) + threadIdx.x / kColumns; i < end;
         i += kStrands)
      value += from[i * sum.partials.row_stride];
  }
  value = add_up(value, sum.total ? 1 : kColumns);
  if (!sum.total) {
    if (threadIdx.x < kColumns && column < sum.cols)
      store_rounded<T, Real>(sum, expert * sum.cols + column, value);
    return;
  }
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    partials[column] = static_cast<Real>(value);
    __threadfence();
    is_last = atomicAdd(&args.counters[blockIdx.y], 1) == blocks - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  value = 0;
  for (unsigned i = threadIdx.x; i < blocks; i += kThreads)
    value += __ldcg(&partials[int64_t{i} * kColumns]);
  value = add_up(value, 1);
  if (threadIdx.x == 0) store_rounded<T, Real>(sum, 0, value);
}

}  // namespace

int reduce_partials(const ReduceArgs& args, void* stream) {
  int64_t most = 0;
  for (int i = 0; i < args.count; ++i) {
    const int64_t blocks = (args.sums[i].cols + kColumns - 1) / kColumns;
    most = std::max(most, blocks * results_of(args, args.sums[i]));
  }
  if (most == 0) return cudaSuccess;
  if (most > std::numeric_limits<int32_t>::max()) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(most), static_cast<unsigned>(args.count));
  return visit_dtype(args.dtype, [&](auto t) {
    return launch_kernel(reduce_kernel<decltype(t)>, grid, kThreads, 0,
                         static_cast<cudaStream_t>(stream), args);
  });
}

}  // namespace fused_acts::cuda
