// The row kernels, forward and backward, for any unit, 16- or 32-bit storage type and layout: calls
// with biases, with parameters for each column, and with sums over rows.
//
// A thread stays at kColumns columns and goes through rows of its block. What these columns have
// for all rows, and their sums, is in shared memory, which has the bandwidth for it: in registers
// it would leave room for too few threads.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "cuda/vector.cuh"
#include "math/unit.h"

namespace fused_acts::cuda {

struct RowOperand {
  char* data;
  uint32_t stride;  // from one row to the next, in vectors
};

// One value a column of all rows, or one for all.
struct ColumnValues {
  RowVector vector;
  float otherwise;  // where there is no vector
};

// What a column has: a gate_bias, an up_bias, two parameters; and sums over rows of the gradients
// by each.
constexpr int kColumnValues = 4;

struct RowParams {
  RowOperand gate, up, out, grad_out, grad_gate, grad_up;
  float limit, weight;
  uint32_t rows, cols, last_cols, rows_per_block, block, tiles;
  int log2_lanes;
  bool pairs, product, has_sums;
  float* sums[kColumnValues];  // [row_blocks, cols], or null
  int sum_places[kColumnValues];
  ColumnValues values[kColumnValues];
};

template <class StorageType, int access_bytes, bool backward>
struct RowConfig {
  using T = StorageType;
  static constexpr int kBytes = access_bytes;
  static constexpr int kColumns = kBytes / sizeof(T);
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  static constexpr int kLanes = cuda::kLanes<Real>;
  static constexpr int kParts = kColumns / kLanes;  // of a vector, a Real each
  static constexpr bool kBackward = backward;
  static constexpr bool kCompiled = kBytes == 16 || kHas32ByteAccesses;
  using Shared = std::conditional_t<kLanes == 2, float2, float>;
};

// Blocks that fit a multiprocessor at least, which bounds the registers of a thread.
template <class Unit, class C>
constexpr int kMinBlocks = !C::kBackward          ? (C::kBytes == 32 ? 10 : 12)
                           : kHasManyValues<Unit> ? 9
                                                  : 10;

// Which of the column values and sums a unit has.
template <class Unit>
FUSED_ACTS_DEVICE constexpr bool has_value(int i) {
  return i == 0 || (i == 1 ? !Unit::kIsUnary : i == 2 ? Unit::kHasParameter : Unit::kHasSecond);
}

FUSED_ACTS_DEVICE float real_of(float x) { return x; }
FUSED_ACTS_DEVICE F32x2 real_of(float2 x) { return {x.x, x.y}; }
FUSED_ACTS_DEVICE float shared_of(float x) { return x; }
FUSED_ACTS_DEVICE float2 shared_of(F32x2 x) { return make_float2(x.lo, x.hi); }

// Gate and up, which alternate in two vectors side by side. Both are read through L1, where the
// second finds the sectors of the first.
template <class T, int kColumns>
FUSED_ACTS_DEVICE void load_pairs(const char* address, GateUp<T, kColumns, false>& x) {
  Vector<T, kColumns> vectors[2];
  load_cached(address, vectors[0]);
  load_cached(address + Vector<T, kColumns>::kBytes, vectors[1]);
  deinterleave(vectors, x.gate_vector, x.up_vector);
}

template <class T, int kColumns>
FUSED_ACTS_DEVICE void store_pairs(const GateUp<T, kColumns, false>& x, char* address) {
  Vector<T, kColumns> vectors[2];
  interleave(x.gate_vector, x.up_vector, vectors);
  store(vectors[0], address);
  store(vectors[1], address + Vector<T, kColumns>::kBytes);
}

// Where the i-th column of a tile is in rows of `width` parts of vectors.
template <class C>
FUSED_ACTS_DEVICE float& column_of(typename C::Shared* parts, unsigned i, unsigned width,
                                   unsigned lane) {
  typename C::Shared* const shared = parts + i % C::kColumns / C::kLanes * width + lane;
  return reinterpret_cast<float*>(shared)[i % C::kLanes];
}

template <class Unit, class C>
__global__ void __launch_bounds__(kBlock, kMinBlocks<Unit, C>)
    row_kernel(const __grid_constant__ RowParams p) {
  if constexpr (!C::kCompiled) {
    __trap();
  } else {
    using T = typename C::T;
    using Real = typename C::Real;
    using Shared = typename C::Shared;
    constexpr int kColumns = C::kColumns, kParts = C::kParts;
    let_next_kernel_start();

    const unsigned row_block = blockIdx.x / p.tiles, tile = blockIdx.x - row_block * p.tiles;
    const unsigned lanes = 1u << p.log2_lanes, lane = threadIdx.x & (lanes - 1);
    const unsigned strand = threadIdx.x >> p.log2_lanes, strands = kBlock >> p.log2_lanes;
    const uint32_t first_column = tile * lanes * kColumns, column = first_column + lane * kColumns;
    const uint32_t vector = column / kColumns;
    const uint32_t packed =
        p.pairs ? 2 * vector : (p.block ? column + column / p.block * p.block : column) / kColumns;
    const auto at = [](const RowOperand& m, uint32_t row, uint32_t place) {
      return m.data + static_cast<uint64_t>(row * m.stride + place) * C::kBytes;
    };
    wait_for_previous_kernel();

    __shared__ Shared values[kColumnValues][kParts][kMostLanes];
    extern __shared__ uint4 dynamic[];
    Shared* const all_sums = reinterpret_cast<Shared*>(dynamic);
#pragma unroll
    for (int i = 0; i < kColumnValues; ++i) {
      if (!has_value<Unit>(i)) continue;
      const ColumnValues& value = p.values[i];
      for (unsigned c = threadIdx.x; c < lanes * kColumns; c += kBlock) {
        float x = value.otherwise;
        if (value.vector.data && first_column + c < p.cols)
          x = number_at<T>(value.vector.data, value.vector.in_real,
                           (first_column + c) * value.vector.col_stride);
        column_of<C>(values[i][0], c, kMostLanes, c / kColumns) = x;
      }
      if (C::kBackward && p.sums[i]) {
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          all_sums[(p.sum_places[i] + part) * kBlock + threadIdx.x] = shared_of(Real(0.0f));
      }
    }
    __syncthreads();

    const uint32_t begin = row_block * p.rows_per_block;
    const uint32_t end = column < p.cols ? min(begin + p.rows_per_block, p.rows) : 0;
    for (uint32_t row = begin + strand; row < end; row += strands) {
      if (row + 1 == p.rows && column >= p.last_cols) break;
      GateUp<T, kColumns, false> x;
      Vector<T, kColumns> narrow;  // grad_out, or out
      if (C::kBackward) load(at(p.grad_out, row, vector), narrow);
      if (p.pairs) {
        load_pairs(at(p.gate, row, packed), x);
      } else {
        load(at(p.gate, row, packed), x.gate_vector);
        if (!Unit::kIsUnary) load(at(p.up, row, packed), x.up_vector);
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        // never true: as in the flat kernels, what is before it needs no registers behind it
        if (part > 0 && p.rows == ~uint32_t{0} - part) break;
        const auto value = [&](int i) {
          return has_value<Unit>(i) ? real_of(values[i][part][lane]) : Real(1.0f);
        };
        const GatedUnit<Unit, typename C::Math> unit(
            {value(2), value(3), Real(p.limit), Real(p.weight)}, value(0), value(1));
        const int i = part * C::kLanes;
        const Real gate = x.template gate<Real>(i), up = x.template up<Real>(i);
        if constexpr (!C::kBackward) {
          set(narrow, i, unit.forward(gate, up));
        } else {
          const auto by = unit.backward(get<Real>(narrow, i), gate, up);
          x.set_both(i, by.gate, by.up);
          if (p.product) set(narrow, i, by.product);
          const Real added[kColumnValues] = {by.gate, by.up, by.parameter, by.second};
#pragma unroll
          for (int s = 0; s < kColumnValues; ++s) {
            if (!has_value<Unit>(s) || !p.sums[s]) continue;
            Shared& sum = all_sums[(p.sum_places[s] + part) * kBlock + threadIdx.x];
            sum = shared_of(real_of(sum) + added[s]);
          }
        }
      }
      if constexpr (!C::kBackward) {
        store(narrow, at(p.out, row, vector));
      } else {
        if (p.product) store(narrow, at(p.grad_out, row, vector));
        if (p.pairs) {
          if (p.grad_gate.data) store_pairs(x, at(p.grad_gate, row, packed));
        } else {
          x.store_to(at(p.grad_gate, row, packed), at(p.grad_up, row, packed), p.grad_gate.data,
                     !Unit::kIsUnary && p.grad_up.data);
        }
      }
    }

    if (!C::kBackward || !p.has_sums) return;
    __syncthreads();
    for (unsigned c = threadIdx.x; c < lanes * kColumns && first_column + c < p.cols; c += kBlock) {
#pragma unroll
      for (int s = 0; s < kColumnValues; ++s) {
        if (!has_value<Unit>(s) || !p.sums[s]) continue;
        float total = 0;  // always in the same order
        for (unsigned t = c / kColumns; t < kBlock; t += lanes)
          total += column_of<C>(all_sums + p.sum_places[s] * kBlock, c, kBlock, t);
        p.sums[s][static_cast<int64_t>(row_block) * p.cols + first_column + c] = total;
      }
    }
  }
}

inline RowParams row_params(const RowPlan& plan) {
  const GluArgs& args = plan.args;
  const int parts = plan.columns / (dtype_size(args.dtype) == 2 ? 2 : 1);
  const auto operand = [&](const Matrix& m) {
    return RowOperand{static_cast<char*>(m.data),
                      static_cast<uint32_t>(args.rows == 1 ? 0 : m.row_stride / plan.columns)};
  };
  RowParams p{operand(args.gate),
              operand(args.up),
              operand(args.out),
              operand(args.grad_out),
              operand(args.grad_gate),
              operand(args.grad_up),
              static_cast<float>(args.limit),
              static_cast<float>(args.weight),
              static_cast<uint32_t>(args.rows),
              static_cast<uint32_t>(args.cols),
              static_cast<uint32_t>(plan.last_cols),
              static_cast<uint32_t>(plan.rows_per_block),
              static_cast<uint32_t>(args.block),
              static_cast<uint32_t>(plan.tiles),
              plan.log2_lanes,
              plan.pairs,
              args.product,
              args.row_blocks > 0,
              {},
              {},
              // adding -0 changes nothing, not even the sign of 0
              {{args.gate_bias, -0.0f},
               {args.up_bias, -0.0f},
               {args.parameters[0], static_cast<float>(args.scalars[0])},
               {args.parameters[1], static_cast<float>(args.scalars[1])}}};
  for (int i = 0, places = 0; i < kColumnValues; ++i) {
    p.sums[i] = static_cast<float*>(args.sums[i]);
    p.sum_places[i] = places;
    if (p.sums[i]) places += parts;
  }
  return p;
}

template <class C>
cudaError_t launch_config(const RowPlan& plan, cudaStream_t stream) {
  const RowParams params = row_params(plan);
  const auto grid = static_cast<unsigned>(plan.tiles * plan.row_blocks);
  size_t sums = 0;
  for (const float* sum : params.sums) sums += sum != nullptr;
  return visit_variant(plan.args.variant, [&](auto unit) -> cudaError_t {
    using Unit = decltype(unit);
    if constexpr (Unit::kIsUnary && !Unit::kHasParameter) {
      return cudaErrorInvalidValue;  // make_row_plan leaves these to the general kernels
    } else {
      return launch_kernel(row_kernel<Unit, C>, grid, kBlock,
                           sums * kBlock * C::kColumns * sizeof(float), stream, params);
    }
  });
}

template <class T>
cudaError_t launch_rows(const RowPlan& plan, cudaStream_t stream) {
  if (plan.args.grad_out.data) return launch_config<RowConfig<T, 16, true>>(plan, stream);
  if constexpr (widest_compiled() == 32) {
    if (plan.access_bytes == 32) return launch_config<RowConfig<T, 32, false>>(plan, stream);
  }
  return launch_config<RowConfig<T, 16, false>>(plan, stream);
}

}  // namespace fused_acts::cuda
