// What the kernels of the units of whole rows are made of: a thread's place in the rows, sums over
// the threads of a row, and sums over rows.
#pragma once

#include "cuda/vector.cuh"
#include "kernels/row_units.h"

namespace fused_acts::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;

struct Params {
  RowSettings settings;
  Matrix first, second, grad_out, out, grad_first, grad_second;
  RowVector weight, bias;
  char *stats, *parameter_sums;
  int64_t rows, groups, cols, rows_per_block;
  bool keeps;           // whether the operands of a group fit
  bool sums_in_shared;  // whether the sums of a group's columns do
};

// Adds up kCount values each over the threads of a row, always in the same order. x counts the
// threads of a row, y the rows of a block, which are several only where a warp does for a row.
template <int kCount, class Real>
FUSED_ACTS_DEVICE void add_up(Real* values) {
  const auto of_warp = [&] {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], lane);
    }
  };
  of_warp();
  if (blockDim.x == kWarp) return;
  __shared__ Real of_warps[kCount][kMostThreads / kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int k = 0; k < kCount; ++k)
    if (lane == 0) of_warps[k][warp] = values[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k)
    values[k] = lane < blockDim.x / kWarp ? of_warps[k][lane] : Real(0);
  __syncthreads();
  of_warp();
}

// The element at `index` of a dense row vector, which stays in L1 for other rows.
template <class T, class Real>
FUSED_ACTS_DEVICE Real number_at(const RowVector& vector, int64_t index) {
  if constexpr (sizeof(T) == 2) {
    if (!vector.in_real)
      return element(Vector<T, 1>{{static_cast<const uint16_t*>(vector.data)[index]}}, 0);
  }
  return static_cast<const Real*>(vector.data)[index];
}

// kColumns neighbours of it.
template <class T, int kColumns, class Real>
FUSED_ACTS_DEVICE void read_weight(const RowVector& vector, int64_t index, Real* weight) {
  const auto read = [&](auto type) {
    using S = decltype(type);
    if constexpr (kColumns == 1) {
      weight[0] = number_at<T, Real>(vector, index);
    } else {
      Vector<S, kColumns> columns;
      const uint4* source =
          reinterpret_cast<const uint4*>(static_cast<const S*>(vector.data) + index);
#pragma unroll
      for (int i = 0; i < columns.kBytes / 16; ++i) {
        const uint4 words = source[i];
        columns.words[4 * i] = words.x;
        columns.words[4 * i + 1] = words.y;
        columns.words[4 * i + 2] = words.z;
        columns.words[4 * i + 3] = words.w;
      }
#pragma unroll
      for (int k = 0; k < kColumns; ++k) weight[k] = element(columns, k);
    }
  };
  vector.in_real ? read(Real{}) : read(T{});
}

// What a kernel needs of its place: the group, and the rows of this thread.
template <class Unit, class T, int kColumns>
class Place {
 public:
  using Real = typename Unit::Real;
  using Columns = Vector<T, kColumns>;

  FUSED_ACTS_DEVICE explicit Place(const Params& p) : p_(p), vectors_(p.cols / kColumns) {}

  // Calls visitor(group), and in it for_each_row(visitor(row)), for what this thread is to do.
  template <class Visitor>
  FUSED_ACTS_DEVICE void for_each_group(Visitor visitor) const {
    for (int64_t group = blockIdx.y; group < p_.groups; group += gridDim.y) visitor(group);
  }
  template <class Visitor>
  FUSED_ACTS_DEVICE void for_each_row(Visitor visitor) const {
    const int64_t begin = int64_t{blockIdx.x} * p_.rows_per_block;
    const int64_t after = begin + p_.rows_per_block, end = after < p_.rows ? after : p_.rows;
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y) visitor(row);
  }
  // Calls visitor(i) for the vectors of this thread in a group.
  template <class Visitor>
  FUSED_ACTS_DEVICE void for_each_vector(Visitor visitor) const {
    for (int64_t i = threadIdx.x; i < vectors_; i += blockDim.x) visitor(i);
  }

  FUSED_ACTS_DEVICE char* at(const Matrix& operand, int64_t row, int64_t group, int64_t i) const {
    const int64_t column = group * p_.cols + i * kColumns;
    return static_cast<char*>(operand.data) + (row * operand.row_stride + column) * sizeof(T);
  }
  FUSED_ACTS_DEVICE Real shift_of(int64_t row, int64_t group) const {
    if constexpr (!Unit::kShifted) return Real(0);
    const int64_t places[] = {0, p_.cols / 2, p_.cols - 1};
    Real some[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      Vector<T, 1> one;
      load(at(p_.first, row, group, 0) + places[i] * sizeof(T), one);
      some[i] = element(one, 0);
    }
    const int middle = middle_of(some);
    return middle == 0 ? some[0] : middle == 1 ? some[1] : some[2];
  }
  FUSED_ACTS_DEVICE Real* stats_of(int64_t row, int64_t group) const {
    return reinterpret_cast<Real*>(p_.stats) + (row * p_.groups + group) * Unit::kStats;
  }
  FUSED_ACTS_DEVICE void read_parameters(Real* parameters) const {
    if constexpr (Unit::kHasParameters) {
#pragma unroll
      for (int i = 0; i < 3; ++i) parameters[i] = number_at<T, Real>(p_.weight, i);
      parameters[3] = number_at<T, Real>(p_.bias, 0);
    }
  }
  FUSED_ACTS_DEVICE void weight_at(int64_t group, int64_t i, Real* weight) const {
    if constexpr (Unit::kHasWeight) {
      read_weight<T, kColumns>(p_.weight, group * p_.cols + i * kColumns, weight);
    } else {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) weight[k] = Real(1);
    }
  }
  // Shared memory for one operand of the block's rows.
  FUSED_ACTS_DEVICE Columns* kept(int operand) const {
    extern __shared__ uint4 shared[];
    return reinterpret_cast<Columns*>(shared) + (operand * blockDim.y + threadIdx.y) * vectors_;
  }
  FUSED_ACTS_DEVICE Real scalar_columns() const { return static_cast<Real>(p_.cols); }

 private:
  const Params& p_;
  const int64_t vectors_;
};

// Elements in pairs, as they are converted.
template <class T, int kColumns, class Real>
FUSED_ACTS_DEVICE void set_all(Vector<T, kColumns>& x, const Real* values) {
  if constexpr (kColumns == 1) {
    set(x, 0, values[0]);
  } else {
#pragma unroll
    for (int k = 0; k < kColumns; k += 2) set_pair(x, k, values[k], values[k + 1]);
  }
}

// What the rows of a block add to the gradients of the parameters. Of a weight each thread adds up
// its own columns, in shared memory or where the block's sums go; where a warp does for a row the
// warps' sums are added in the end.
template <class Unit, class T, int kColumns>
class ParameterSums {
  using Real = typename Unit::Real;
  struct alignas(kColumns % 4 == 0 ? 16 : kColumns * sizeof(Real)) Sums {
    Real values[kColumns];
  };

 public:
  FUSED_ACTS_DEVICE ParameterSums(const Params& p, char* shared)
      : p_(p), shared_(reinterpret_cast<Real*>(shared)) {}

  FUSED_ACTS_DEVICE void begin(int64_t group) {
    if constexpr (!Unit::kHasWeight) return;
    if (!p_.parameter_sums) return;
    group_ = group;
    sums_ = p_.sums_in_shared ? shared_ + threadIdx.y * p_.cols : result(0);
    const int64_t vectors = p_.cols / kColumns;
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x)
      reinterpret_cast<Sums*>(sums_)[i] = {};
  }
  FUSED_ACTS_DEVICE void add(int64_t i, const Real* values) {
    if constexpr (!Unit::kHasWeight) return;
    if (!p_.parameter_sums) return;
    Sums sums = reinterpret_cast<const Sums*>(sums_)[i];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) sums.values[k] += values[k];
    reinterpret_cast<Sums*>(sums_)[i] = sums;
  }
  FUSED_ACTS_DEVICE void end() {
    if constexpr (!Unit::kHasWeight) return;
    if (!p_.parameter_sums || !p_.sums_in_shared) return;
    __syncthreads();
    const int64_t threads = blockDim.x * blockDim.y;
    for (int64_t i = threadIdx.y * blockDim.x + threadIdx.x; i < p_.cols; i += threads) {
      Real sum = shared_[i];
      for (unsigned y = 1; y < blockDim.y; ++y) sum += shared_[y * p_.cols + i];
      *result(i) = sum;
    }
    __syncthreads();
  }

  // Of parameters each row adds its own, which all its threads know.
  FUSED_ACTS_DEVICE void add_of_row(const Real* values) {
#pragma unroll
    for (int k = 0; k < kRowParameters; ++k) of_rows_[k] += values[k];
  }
  FUSED_ACTS_DEVICE void end_of_rows() {
    if constexpr (!Unit::kHasParameters) return;
    if (!p_.parameter_sums) return;
    __shared__ Real of_strands[kMostThreads / kWarp][kRowParameters];
    if (threadIdx.x < kRowParameters) {
#pragma unroll
      for (int k = 0; k < kRowParameters; ++k)
        if (threadIdx.x == k) of_strands[threadIdx.y][k] = of_rows_[k];
    }
    __syncthreads();
    if (threadIdx.y > 0 || threadIdx.x >= kRowParameters) return;
    Real sum = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) sum += of_strands[y][threadIdx.x];
    reinterpret_cast<Real*>(p_.parameter_sums)[blockIdx.x * kRowParameters + threadIdx.x] = sum;
  }

 private:
  FUSED_ACTS_DEVICE Real* result(int64_t column) const {
    return reinterpret_cast<Real*>(p_.parameter_sums) +
           (int64_t{blockIdx.x} * p_.groups + group_) * p_.cols + column;
  }

  const Params& p_;
  Real* const shared_;
  Real* sums_ = nullptr;
  int64_t group_ = 0;
  Real of_rows_[kRowParameters] = {};
};

}  // namespace
}  // namespace fused_acts::cuda
