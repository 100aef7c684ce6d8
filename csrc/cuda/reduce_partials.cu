// Sums from partial ones: over rows from those of segments, over columns from those of tiles.
#include <algorithm>

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

// Of a total every block leaves its own part where its first partial sum was, and the block that is
// the last to do so adds up all parts.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    reduce_kernel(const __grid_constant__ ReduceArgs args) {
  using Real = typename MathFor<T>::type::Real;
  let_next_kernel_start();
  const RowSum& sum = args.sums[blockIdx.y];
  Real* const partials = static_cast<Real*>(sum.partials.data);
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x % kColumns;
  const auto blocks = static_cast<unsigned>((sum.cols + kColumns - 1) / kColumns);
  wait_for_previous_kernel();
  if (blockIdx.x >= blocks) return;

  // Of the strand's share of the partial sums.
  const auto add = [&](int64_t begin, int64_t end, double& value) {
    if (column >= sum.cols) return;
    for (int64_t i = begin + threadIdx.x / kColumns; i < end; i += kStrands)
      value += partials[i * sum.partials.row_stride + column];
  };
  if (!sum.total) {
    const int64_t results = sum.by_expert ? args.segments.experts.count : 1;
    for (int64_t i = blockIdx.z; i < results; i += gridDim.z) {
      const Parts parts = sum.by_expert ? args.segments.parts_of(i) : Parts{0, sum.parts, -1};
      double value = 0;
      add(parts.begin, parts.end, value);
      if (parts.more >= 0) add(parts.more, parts.more + 1, value);
      value = add_up(value, kColumns);
      if (threadIdx.x < kColumns && column < sum.cols)
        store_rounded<T, Real>(sum, i * sum.cols + column, value);
    }
    return;
  }
  if (blockIdx.z > 0) return;
  double value = 0;
  add(0, sum.parts, value);
  value = add_up(value, 1);
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
  constexpr int64_t kMostExperts = 65535;  // side by side
  int64_t most = 0, results = 1;
  for (int i = 0; i < args.count; ++i) {
    most = std::max(most, args.sums[i].cols);
    if (args.sums[i].by_expert) results = std::max(results, args.segments.experts.count);
  }
  if (most == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((most + kColumns - 1) / kColumns),
                  static_cast<unsigned>(args.count),
                  static_cast<unsigned>(std::min(results, kMostExperts)));
  return visit_dtype(args.dtype, [&](auto t) {
    return launch_kernel(reduce_kernel<decltype(t)>, grid, kThreads, 0,
                         static_cast<cudaStream_t>(stream), args);
  });
}

}  // namespace fused_acts::cuda
