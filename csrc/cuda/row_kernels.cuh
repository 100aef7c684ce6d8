// The row kernels, forward and backward, for any unit, 16- or 32-bit storage type and layout: calls
// with biases, with parameters for each column, and with sums over rows.
//
// A thread stays at kColumns columns and goes through rows of its block. What these columns have
// for all rows, and their sums, is in shared memory, which has the bandwidth for it: in registers
// it would leave room for too few threads.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/divider.h"
#include "cuda/plan.h"
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
constexpr int kColumnValues = kMostSums;

struct RowParams {
  RowOperand gate, up, out, grad_out, grad_gate, grad_up;
  float limit, weight;
  uint32_t cols, last_cols, block;
  Divider tiles, blocks;  // of a row
  SegmentsOf<int32_t, Divider> segments;
  int log2_lanes;
  bool pairs, product, has_sums, needs_gate, needs_up;
  float* sums[kColumnValues];  // [segments, cols], or null
  unsigned* counters;
  ColumnValues values[kColumnValues];
  // of calls with row weights or experts
  Variant variant;
  bool zeroes_padding;
  ColumnVector row_weight;
  float* weight_sums;  // [tiles, rows], or null
};

// Stands for any unit: the kernels of calls with row weights or experts branch to that of the call.
struct AnyUnit {
  template <class M>
  using F = void;
  static constexpr bool kIsUnary = false, kHasParameter = true, kHasSecond = true;
};

template <class StorageType, int access_bytes, bool backward, bool learned, bool routed = false>
struct RowConfig {
  using T = StorageType;
  static constexpr int kBytes = access_bytes;
  static constexpr int kColumns = kBytes / sizeof(T);
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  static constexpr int kLanes = cuda::kLanes<Real>;
  static constexpr int kParts = kColumns / kLanes;  // of a vector, a Real each
  static constexpr bool kBackward = backward;
  static constexpr bool kLearned = learned;  // whether parameters may have sums
  static constexpr bool kRouted = routed;    // whether there may be row weights and experts
  static constexpr bool kCompiled = kBytes == 16 || kHas32ByteAccesses;
  using Shared = std::conditional_t<kLanes == 2, float2, float>;
};

// Blocks that fit a multiprocessor at least, which bounds the registers of a thread.
template <class Unit, class C>
constexpr int kMinBlocks = C::kRouted             ? (C::kBackward ? 9 : 12)
                           : !C::kBackward        ? (C::kBytes == 32 ? 10 : 12)
                           : Unit::kHasSecond     ? 7
                           : kHasManyValues<Unit> ? 9
                                                  : 10;

// Which of the column values a unit has, and of which there are sums: of its parameters where they
// are learned.
template <class Unit>
FUSED_ACTS_DEVICE constexpr bool has_value(int i) {
  return i == 0 || (i == 1 ? !Unit::kIsUnary : i == 2 ? Unit::kHasParameter : Unit::kHasSecond);
}
template <class Unit, class C>
FUSED_ACTS_DEVICE constexpr bool has_sum(int i) {
  return C::kBackward && has_value<Unit>(i) && (i < 2 || C::kLearned);
}

FUSED_ACTS_DEVICE float sum_of(float x) { return x; }
FUSED_ACTS_DEVICE float sum_of(F32x2 x) { return x.lo + x.hi; }
FUSED_ACTS_DEVICE float real_of(float x) { return x; }
FUSED_ACTS_DEVICE F32x2 real_of(float2 x) { return {x.x, x.y}; }
FUSED_ACTS_DEVICE float shared_of(float x) { return x; }
FUSED_ACTS_DEVICE float2 shared_of(F32x2 x) { return make_float2(x.lo, x.hi); }

// Where the i-th column of a tile is in rows of `width` parts of vectors.
template <class C>
FUSED_ACTS_DEVICE float& column_of(typename C::Shared* parts, unsigned i, unsigned width,
                                   unsigned lane) {
  typename C::Shared* const shared = parts + i % C::kColumns / C::kLanes * width + lane;
  return reinterpret_cast<float*>(shared)[i % C::kLanes];
}

using Segment32 = SegmentOf<int32_t>;

template <class C>
FUSED_ACTS_DEVICE Segment32 segment_of(const SegmentsOf<int32_t, Divider>& segments, int32_t i) {
  if constexpr (C::kRouted) {
    __builtin_assume(!segments.experts.of_row || !segments.experts.count);
    return segments.at(i);
  } else {
    const int32_t length = segments.length, begin = i * length;
    const int32_t end = ::min(begin + length, segments.rows);
    return {begin, end, end, 0};
  }
}

FUSED_ACTS_DEVICE bool is_live(const SegmentsOf<int32_t, Divider>& segments,
                               const Segment32& segment, int32_t row) {
  const int32_t* const of_row = segments.experts.of_row;
  return row < segment.live_end && (!of_row || of_row[row] >= 0);
}

template <class Unit, class C, class Visitor>
FUSED_ACTS_DEVICE void visit_unit(Variant variant, Visitor visitor) {
  if constexpr (C::kRouted) {
    visit_variant(variant, [&](auto unit) {
      if constexpr (!C::kBackward || !kHasManyValues<decltype(unit)>) visitor(unit);
    });
  } else {
    visitor(Unit{});
  }
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

    const uint32_t index = divide(blockIdx.x, p.tiles);
    const uint32_t tile = blockIdx.x + index * p.tiles.minus_divisor;
    const unsigned lanes = 1u << p.log2_lanes, lane = threadIdx.x & (lanes - 1);
    const unsigned strand = threadIdx.x >> p.log2_lanes, strands = kBlock >> p.log2_lanes;
    const uint32_t first_column = tile * lanes * kColumns;
    const uint32_t vector = tile * lanes + lane, column = vector * kColumns;
    wait_for_previous_kernel();
    const Segment32 segment = segment_of<C>(p.segments, index);
    const uint32_t packed =
        p.pairs ? 2 * vector
                : (p.block ? column + divide(column, p.blocks) * p.block : column) / kColumns;
    const auto at = [](const RowOperand& m, uint32_t row, uint32_t place) {
      return m.data + static_cast<uint64_t>(row * m.stride + place) * C::kBytes;
    };

    __shared__ Shared values[kColumnValues][kParts][kMostLanes];
    extern __shared__ uint4 dynamic[];
    Shared* const sums = reinterpret_cast<Shared*>(dynamic);  // [kColumnValues][kParts][kBlock]
    // Padding has no expert.
    const uint32_t columns = !C::kRouted || segment.begin < segment.live_end ? p.cols : 0;
    // All loads are in flight before the first use.
    constexpr int kTurns = kMostLanes * kColumns / kBlock;
    float read[kTurns][kColumnValues];
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const uint32_t c = first_column + turn * kBlock + threadIdx.x;
#pragma unroll
      for (int i = 0; i < kColumnValues; ++i) {
        const ColumnValues& value = p.values[i];
        read[turn][i] = value.otherwise;
        if (has_value<Unit>(i) && value.vector.data && c < columns)
          read[turn][i] =
              number_at<T>(value.vector.data, value.vector.in_real,
                           c * value.vector.col_stride +
                               (C::kRouted ? segment.expert * value.vector.expert_stride : 0));
      }
    }
#pragma unroll
    for (int i = 0; i < kColumnValues; ++i) {
#pragma unroll
      for (int turn = 0; turn < kTurns; ++turn) {
        const unsigned c = turn * kBlock + threadIdx.x;
        if (has_value<Unit>(i) && c < lanes * kColumns)
          column_of<C>(values[i][0], c, kMostLanes, c / kColumns) = read[turn][i];
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        if (has_sum<Unit, C>(i) && p.sums[i])
          sums[(i * kParts + part) * kBlock + threadIdx.x] = shared_of(Real(0.0f));
      }
    }
    __syncthreads();

    const uint32_t all_rows = p.segments.rows;
    const uint32_t rows = column < p.last_cols ? all_rows : column < p.cols ? all_rows - 1 : 0;
    const uint32_t end = ::min(segment.end, rows);
    // The threads of a warp stay together where they add up what is of a row.
    const uint32_t last = C::kRouted ? segment.end + strand : end;
    for (uint32_t row = segment.begin + strand; row < last; row += strands) {
      GateUp<T, kColumns, false> x;
      Vector<T, kColumns> narrow;  // grad_out, or out
      Real weight_sum(0.0f);       // of the gradient by the row's weight
      const bool there = !C::kRouted || row < end;
      const bool live = !C::kRouted || (there && is_live(p.segments, segment, row));
      if (live) {
        float weight = p.weight;
        if (C::kRouted && p.row_weight.data)
          weight *= number_at<T>(p.row_weight.data, p.row_weight.in_real, row);
        const bool has_up = !Unit::kIsUnary && (!C::kRouted || p.up.data);
        // Gate and up that alternate lie in two vectors side by side: the second one finds the
        // sectors of the first in L1.
        const char* const gate_from = at(p.gate, row, packed);
        load_cached(gate_from, x.gate_vector);
        if (has_up)
          load_cached(p.pairs ? gate_from + C::kBytes : at(p.up, row, packed), x.up_vector);
        if (C::kBackward) load(at(p.grad_out, row, vector), narrow);
        if (p.pairs) deinterleave(x.gate_vector, x.up_vector);
        visit_unit<Unit, C>(p.variant, [&](auto unit) {
          using U = decltype(unit);
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
            // never true: as in the flat kernels, what is before it needs no registers behind it
            if (part > 0 && p.cols == ~uint32_t{0} - part) break;
            const auto value = [&](int i) {
              return has_value<U>(i) ? real_of(values[i][part][lane]) : Real(1.0f);
            };
            const GatedUnit<U, typename C::Math> unit(
                {value(2), value(3), Real(p.limit), Real(weight)}, value(0), value(1));
            const int i = part * C::kLanes;
            const Real gate = x.template gate<Real>(i), up = x.template up<Real>(i);
            if constexpr (!C::kBackward) {
              set(narrow, i, unit.forward(gate, up));
            } else {
              const auto by = unit.backward(get<Real>(narrow, i), gate, up);
              x.set_both(i, by.gate, by.up);
              if (p.product) set(narrow, i, by.product);
              if (C::kRouted) weight_sum = weight_sum + by.weight;
              const Real added[kColumnValues] = {by.gate, by.up, by.parameter, by.second};
#pragma unroll
              for (int s = 0; s < kColumnValues; ++s) {
                if (!has_sum<U, C>(s) || !p.sums[s]) continue;
                Shared& sum = sums[(s * kParts + part) * kBlock + threadIdx.x];
                sum = shared_of(real_of(sum) + added[s]);
              }
            }
          }
        });
      } else {  // written, and not multiplied by, 0
        x = {};
        narrow = {};
      }
      if constexpr (!C::kBackward) {
        if (live || (there && p.zeroes_padding)) store(narrow, at(p.out, row, vector));
      } else if (there) {
        if (p.product) store(narrow, at(p.grad_out, row, vector));
        if (p.pairs) interleave(x.gate_vector, x.up_vector);
        char* const gate_to = at(p.grad_gate, row, packed);
        x.store_to(gate_to, p.pairs ? gate_to + C::kBytes : at(p.grad_up, row, packed),
                   p.needs_gate, !Unit::kIsUnary && p.needs_up);
      }
      if constexpr (C::kRouted && C::kBackward) {
        if (p.weight_sums) {
          float sum = sum_of(weight_sum);
#pragma unroll 1
          for (unsigned apart = lanes / 2; apart > 0; apart /= 2)
            sum += __shfl_xor_sync(~0u, sum, apart);
          if (lane == 0 && there) p.weight_sums[static_cast<int64_t>(tile) * all_rows + row] = sum;
        }
      }
    }

    if (!C::kBackward || !p.has_sums) return;
    if (p.counters && blockIdx.x == 0 && threadIdx.x < kMostSums) p.counters[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll 1
    for (unsigned c = threadIdx.x; c < lanes * kColumns && first_column + c < p.cols; c += kBlock) {
#pragma unroll 1
      for (int s = 0; s < kColumnValues; ++s) {
        if (!has_sum<Unit, C>(s) || !p.sums[s]) continue;
        float total = 0;  // always in the same order
#pragma unroll 1
        for (unsigned t = c / kColumns; t < kBlock; t += lanes)
          total += column_of<C>(sums + s * kParts * kBlock, c, kBlock, t);
        p.sums[s][static_cast<int64_t>(index) * p.cols + first_column + c] = total;
      }
    }
  }
}

}  // namespace fused_acts::cuda
