// The kernels of the units of whole rows: a warp or a block a group of a row. What a thread has
// read it keeps in its own part of shared memory where that fits, and reads again where it does
// not.
#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "cuda/row_units.cuh"

namespace fused_acts::cuda {
namespace {

// Doubles take more registers than that leaves.
template <class T>
constexpr int kThreads = sizeof(T) == 8 ? kMostThreads / 2 : kMostThreads;
constexpr int kAccessBytes = 16;

template <class Unit, class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    forward_kernel(const __grid_constant__ Params p) {
  using Real = typename Unit::Real;
  using Columns = Vector<T, kColumns>;
  let_next_kernel_start();
  const Place<Unit, T, kColumns> place(p);
  const Unit unit(p.settings);
  wait_for_previous_kernel();
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

template <class Unit, class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    backward_kernel(const __grid_constant__ Params p) {
  using Real = typename Unit::Real;
  using Columns = Vector<T, kColumns>;
  let_next_kernel_start();
  const Place<Unit, T, kColumns> place(p);
  const Unit unit(p.settings);
  wait_for_previous_kernel();
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
