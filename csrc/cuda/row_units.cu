// The kernels of the units of whole rows: a warp or a block a group of a row. What a thread has
// read it keeps in its own part of shared memory where that fits, and reads again where it does
// not.
#include "cuda/launch.h"
#include "cuda/vector.cuh"
#include "kernels/row_units.h"

namespace fused_acts::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;
// Doubles take more registers than that leaves.
template <class T>
constexpr int kThreads = sizeof(T) == 8 ? kMostThreads / 2 : kMostThreads;
constexpr int kAccessBytes = 16;
constexpr int64_t kMostShared = 96 << 10;   // of a block: two of them fit on a multiprocessor
constexpr int64_t kUsualShared = 40 << 10;  // to be had without asking

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

// The element at `index` of a dense row vector.
template <class T, class Real>
FUSED_ACTS_DEVICE Real number_at(const RowVector& vector, int64_t index) {
  if (vector.in_real) return static_cast<const Real*>(vector.data)[index];
  Vector<T, 1> one;
  load(static_cast<const char*>(vector.data) + index * sizeof(T), one);
  return element(one, 0);
}

// kColumns neighbours of a dense row vector, which rows have in common.
template <class T, int kColumns, class Real>
FUSED_ACTS_DEVICE void read_weight(const RowVector& vector, int64_t index, Real* weight) {
  const auto read = [&](auto type) {
    using S = decltype(type);
    if constexpr (kColumns == 1) {
      weight[0] = number_at<T, Real>(vector, index);
    } else {
      constexpr int kWords = kColumns * sizeof(S) / sizeof(uint32_t);
      Vector<S, kColumns> columns;
      const uint4* source =
          reinterpret_cast<const uint4*>(static_cast<const S*>(vector.data) + index);
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        const uint4 words = __ldg(source + i);
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
    Vector<T, 1> one;
    load(at(p_.first, row, group, 0), one);
    return element(one, 0);
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

template <class Unit, class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    forward_kernel(const __grid_constant__ Params p) {
  using Real = typename Unit::Real;
  using Columns = Vector<T, kColumns>;
  const Place<Unit, T, kColumns> place(p);
  const Unit unit(p.settings);
  const bool adds_second = unit.adds_second();
  Real parameters[kRowParameters];
  place.read_parameters(parameters);
  place.for_each_group([&](int64_t group) {
    place.for_each_row([&](int64_t row) {
      Columns *const firsts = place.kept(0), *const seconds = place.kept(1);
      const Real shift = place.shift_of(row, group);
      Real sums[Unit::kSums] = {};
      place.for_each_vector([&](int64_t i) {
        Columns first, second{};
        load(place.at(p.first, row, group, i), first);
        if (adds_second) load(place.at(p.second, row, group, i), second);
        if (p.keeps) {
          firsts[i] = first;
          if (adds_second) seconds[i] = second;
        }
#pragma unroll
        for (int k = 0; k < kColumns; ++k)
          unit.add(element(first, k), element(second, k), shift, sums);
      });
      add_up<Unit::kSums>(sums);
      Real stats[Unit::kStats], c[Unit::kConstants];
      unit.statistics(sums, place.scalar_columns(), shift, stats);
      unit.constants(stats, parameters, c);
      place.for_each_vector([&](int64_t i) {
        Columns first, second, out;
        if (!p.keeps || !adds_second) load(place.at(p.second, row, group, i), second);
        if (p.keeps) {
          first = firsts[i];
          if (adds_second) second = seconds[i];
        } else {
          load(place.at(p.first, row, group, i), first);
        }
        Real weight[kColumns], values[kColumns];
        place.weight_at(group, i, weight);
#pragma unroll
        for (int k = 0; k < kColumns; ++k)
          values[k] = unit.value(element(first, k), element(second, k), weight[k], c);
        set_all(out, values);
        store(out, place.at(p.out, row, group, i));
      });
      if (threadIdx.x == 0) {
#pragma unroll
        for (int k = 0; k < Unit::kStats; ++k) place.stats_of(row, group)[k] = stats[k];
      }
    });
  });
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

template <class Unit, class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    backward_kernel(const __grid_constant__ Params p) {
  using Real = typename Unit::Real;
  using Columns = Vector<T, kColumns>;
  const Place<Unit, T, kColumns> place(p);
  const Unit unit(p.settings);
  Real parameters[kRowParameters];
  place.read_parameters(parameters);
  ParameterSums<Unit, T, kColumns> parameter_sums(
      p, reinterpret_cast<char*>(place.kept(0) - threadIdx.y * (p.cols / kColumns)) +
             (p.keeps ? 3 * blockDim.y * (p.cols / kColumns) * sizeof(Columns) : 0));
  place.for_each_group([&](int64_t group) {
    parameter_sums.begin(group);
    place.for_each_row([&](int64_t row) {
      Columns *const firsts = place.kept(0), *const seconds = place.kept(1),
                     *const grads = place.kept(2);
      const auto read = [&](int64_t i, Columns& grad, Columns& first, Columns& second) {
        load(place.at(p.grad_out, row, group, i), grad);
        load(place.at(p.first, row, group, i), first);
        load(place.at(p.second, row, group, i), second);
      };
      Real stats[Unit::kStats];
#pragma unroll
      for (int k = 0; k < Unit::kStats; ++k) stats[k] = place.stats_of(row, group)[k];
      Real sums[Unit::kBackwardSums] = {};
      {
        Real c[Unit::kConstants];
        unit.constants(stats, parameters, c);
        place.for_each_vector([&](int64_t i) {
          Columns grad, first, second;
          read(i, grad, first, second);
          if (p.keeps) {
            firsts[i] = first;
            seconds[i] = second;
            grads[i] = grad;
          }
          Real weight[kColumns];
          place.weight_at(group, i, weight);
#pragma unroll
          for (int k = 0; k < kColumns; ++k)
            unit.add_backward(element(grad, k), element(first, k), element(second, k), weight[k], c,
                              sums);
        });
      }
      add_up<Unit::kBackwardSums>(sums);
      if constexpr (Unit::kHasParameters) {
        Real added[kRowParameters];
        unit.parameter_sums(stats, sums, added);
        parameter_sums.add_of_row(added);
      }
      Real c[Unit::kBackwardConstants];
      unit.backward_constants(stats, parameters, sums, place.scalar_columns(), c);
      place.for_each_vector([&](int64_t i) {
        Columns grad, first, second, grad_first, grad_second;
        if (p.keeps) {
          first = firsts[i];
          second = seconds[i];
          grad = grads[i];
        } else {
          read(i, grad, first, second);
        }
        Real weight[kColumns], by_first[kColumns], by_second[kColumns], by_weight[kColumns];
        place.weight_at(group, i, weight);
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          const auto results =
              unit.gradients(element(grad, k), element(first, k), element(second, k), weight[k], c);
          by_first[k] = results.x;
          by_second[k] = results.y;
          by_weight[k] = results.weight;
        }
        set_all(grad_first, by_first);
        set_all(grad_second, by_second);
        if (p.grad_first.data) store(grad_first, place.at(p.grad_first, row, group, i));
        if (p.grad_second.data) store(grad_second, place.at(p.grad_second, row, group, i));
        parameter_sums.add(i, by_weight);
      });
    });
    parameter_sums.end();
  });
  parameter_sums.end_of_rows();
}

template <class Unit, class T, int kColumns>
cudaError_t launch(bool forward, Params p, int64_t row_blocks, cudaStream_t stream) {
  using Real = typename Unit::Real;
  const auto kernel =
      forward ? forward_kernel<Unit, T, kColumns> : backward_kernel<Unit, T, kColumns>;
  const int64_t vectors = p.cols / kColumns;
  // A warp does for up to 4 vectors a thread; longer groups get a power of two of threads.
  dim3 block(kWarp, 8);
  if (vectors > 4 * kWarp) {
    block = dim3(64, 1);
    while (block.x < kThreads<T> && block.x * 4 < vectors) block.x *= 2;
  }
  // Several warps have their sums in shared memory always: their groups are short.
  int64_t shared = block.y * p.cols * int64_t{sizeof(Real)};
  p.sums_in_shared = Unit::kHasWeight && p.parameter_sums && shared <= kMostShared;
  if (!p.sums_in_shared) shared = 0;
  const int operands = forward ? (Unit(p.settings).adds_second() ? 2 : 1) : 3;
  // A single 16-bit element lies in a word.
  const int64_t kept = block.y * vectors * int64_t{sizeof(Vector<T, kColumns>)} * operands;
  p.keeps = shared + kept <= kMostShared;
  if (p.keeps) shared += kept;
  if (shared > kUsualShared) {  // always to the most: calls from several threads share the setting
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
    if (error != cudaSuccess) return reported(error);
  }
  constexpr int64_t kMostBlocks = int64_t{1} << 30, kMostGroups = 65535;
  if (!p.parameter_sums) {
    const int64_t least = (p.rows + kMostBlocks - 1) / kMostBlocks;
    p.rows_per_block = least > block.y ? least : block.y;
    row_blocks = (p.rows + p.rows_per_block - 1) / p.rows_per_block;
  }
  const dim3 grid(static_cast<unsigned>(row_blocks),
                  static_cast<unsigned>(p.groups < kMostGroups ? p.groups : kMostGroups));
  return launch_kernel(kernel, grid, block, static_cast<size_t>(shared), stream, p);
}

template <class Unit, class T>
cudaError_t choose(bool forward, const Params& p, int64_t row_blocks, cudaStream_t stream) {
  const auto aligned = [&](const Matrix& operand) {
    const int64_t stride = p.rows == 1 ? 0 : operand.row_stride * int64_t{sizeof(T)};
    return reinterpret_cast<uintptr_t>(operand.data) % kAccessBytes == 0 &&
           stride % kAccessBytes == 0;
  };
  constexpr int kColumns = kAccessBytes / sizeof(T);
  const bool wide =
      p.cols % kColumns == 0 && aligned(p.first) && aligned(p.second) && aligned(p.grad_out) &&
      aligned(p.out) && aligned(p.grad_first) && aligned(p.grad_second) &&
      (!Unit::kHasWeight || reinterpret_cast<uintptr_t>(p.weight.data) % kAccessBytes == 0);
  return wide ? launch<Unit, T, kColumns>(forward, p, row_blocks, stream)
              : launch<Unit, T, 1>(forward, p, row_blocks, stream);
}

int run(bool forward, const RowUnitArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const Params p{args.settings,
                 args.first,
                 args.second,
                 args.grad_out,
                 args.out,
                 args.grad_first,
                 args.grad_second,
                 args.weight,
                 args.bias,
                 static_cast<char*>(args.stats),
                 static_cast<char*>(args.parameter_sums),
                 args.rows,
                 args.groups,
                 args.cols,
                 args.rows_per_block(),
                 false,
                 false};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    return visit_row_unit<typename MathFor<T>::type>(args.settings, [&](auto unit) {
      return choose<decltype(unit), T>(forward, p, args.row_blocks, cuda_stream);
    });
  });
}

}  // namespace

int row_unit_forward(const RowUnitArgs& args, void* stream) { return run(true, args, stream); }
int row_unit_backward(const RowUnitArgs& args, void* stream) { return run(false, args, stream); }

}  // namespace fused_acts::cuda
