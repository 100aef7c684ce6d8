// The general kernels: one for each direction and storage type, for any unit, layout, bias, limit
// and parameter, whatever operands are aligned to, and for second derivatives; a thread computes
// single columns. The units share a kernel, which branches to the formulas of its own.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/plan.h"
#include "cuda/vector.cuh"
#include "math/unit.h"

namespace fused_acts::cuda {

struct ByteMatrix {
  char* data;
  int64_t row_bytes;  // from one row to the next
};

struct GeneralParams {
  ByteMatrix gate, up, out, grad_out, grad_gate, grad_up, gate_tangent, up_tangent;
  RowVector gate_bias, up_bias, parameters[2];
  double scalars[2], limit, weight;
  ColumnVector row_weight;
  Segments segments;
  void* sums[4];      // [segments, cols] by gate, up and the parameters
  void* weight_sums;  // [tiles, rows]
  unsigned* counters;
  bool has_sums, pairs, product, zeroes_padding;
  Variant variant;
  int step, log2_lanes;
  unsigned tiles;
  int64_t block, cols, end;  // end: elements, a folded row may be cut
};

// A value of a row vector, or the one that stands for all.
template <class T, class Real>
FUSED_ACTS_DEVICE Real load_row(const RowVector& row, int64_t expert, int64_t column,
                                double otherwise) {
  if (!row.data) return static_cast<Real>(otherwise);
  return number_at<T>(row.data, row.in_real, expert * row.expert_stride + column * row.col_stride);
}

// What a row is to a segment that it lies in.
struct RowKind {
  bool own, live;  // whether it is of the segment's expert; and no padding

  FUSED_ACTS_DEVICE RowKind(const Segments& segments, const Segment& segment, int64_t row) {
    const Experts& experts = segments.experts;
    if (!experts.of_row) {
      own = row < segment.end;
      live = row < segment.live_end;
      return;
    }
    own = live = false;
    if (row >= segment.end) return;
    const int64_t expert = experts.of_row[row];
    const bool padding = expert < 0 || (experts.count && expert >= experts.count);
    own = !experts.count || (padding ? experts.count : expert) == segment.expert;
    live = own && !padding;
  }
};

// Where a thread is in the matrices.
template <class T>
struct Position {
  int64_t row, column, packed;  // the column, and where it is in what may be packed

  FUSED_ACTS_DEVICE char* in(const ByteMatrix& m) const { return at(m, column); }
  FUSED_ACTS_DEVICE char* in_packed(const ByteMatrix& m) const { return at(m, packed); }

 private:
  FUSED_ACTS_DEVICE char* at(const ByteMatrix& m, int64_t element) const {
    return m.data + row * m.row_bytes + element * static_cast<int64_t>(sizeof(T));
  }
};

// Gate and up, or their tangents, at several positions; absent ones are 0.
template <bool kPairs, class T, int kRows, class Real>
FUSED_ACTS_DEVICE void load_both(const ByteMatrix& gate, const ByteMatrix& up,
                                 const Position<T> (&at)[kRows], const bool (&valid)[kRows],
                                 GateUp<T, 1, kPairs> (&x)[kRows]) {
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    x[k] = {};
    if (!valid[k]) continue;
    if constexpr (kPairs) {
      if (gate.data) x[k].load_from(at[k].in_packed(gate), nullptr);
    } else {
      if (gate.data) load(at[k].in_packed(gate), x[k].gate_vector);
      if (up.data) load(at[k].in_packed(up), x[k].up_vector);
    }
  }
}

template <class Real>
struct Inputs {
  Real gate, up, gate_tangent, up_tangent;
};

template <Direction direction, bool kPairs, class T, int kRows, class Real>
FUSED_ACTS_DEVICE void load_inputs(const GeneralParams& p, const Position<T> (&at)[kRows],
                                   const bool (&valid)[kRows], Inputs<Real> (&inputs)[kRows]) {
  GateUp<T, 1, kPairs> x[kRows], tangent[kRows];
  load_both<kPairs, T, kRows, Real>(p.gate, p.up, at, valid, x);
  if constexpr (direction == Direction::kDoubleBackward)
    load_both<kPairs, T, kRows, Real>(p.gate_tangent, p.up_tangent, at, valid, tangent);
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    inputs[k].gate = x[k].template gate<Real>(0);
    inputs[k].up = x[k].template up<Real>(0);
    if constexpr (direction == Direction::kDoubleBackward) {
      inputs[k].gate_tangent = tangent[k].template gate<Real>(0);
      inputs[k].up_tangent = tangent[k].template up<Real>(0);
    }
  }
}

template <class T, class Real>
FUSED_ACTS_DEVICE void store_gradients(const GeneralParams& p, const Position<T>& at, Real gate,
                                       Real up) {
  if (p.pairs) {
    GateUp<T, 1, true> grad;
    grad.set_both(0, gate, up);
    if (p.grad_gate.data) grad.store_to(at.in_packed(p.grad_gate), nullptr, true, true);
  } else {
    GateUp<T, 1, false> grad;
    grad.set_both(0, gate, up);
    grad.store_to(at.in_packed(p.grad_gate), at.in_packed(p.grad_up), p.grad_gate.data,
                  p.grad_up.data);
  }
}

// The sum of a block's rows, always added in the same order, to row `segment` of sums.
template <class Real>
FUSED_ACTS_DEVICE void store_sum(void* sums, Real sum, int64_t segment, int64_t column,
                                 int64_t cols, int log2_lanes) {
  __shared__ Real shared[kBlock];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >> log2_lanes == 0 && column < cols) {
    Real total = 0;
    for (int t = threadIdx.x; t < kBlock; t += 1 << log2_lanes) total += shared[t];
    static_cast<Real*>(sums)[segment * cols + column] = total;
  }
  __syncthreads();
}

// The sum of a row's columns in a tile, of up to a warp, always added in the same order. All
// threads of the warp are here.
template <class Real>
FUSED_ACTS_DEVICE void store_weight_sum(const GeneralParams& p, Real sum, int64_t tile, int64_t row,
                                        bool own) {
#pragma unroll 1
  for (int apart = 1 << p.log2_lanes >> 1; apart > 0; apart /= 2)
    sum = sum + __shfl_xor_sync(~0u, sum, apart);
  if (own && (threadIdx.x & ((1 << p.log2_lanes) - 1)) == 0)
    static_cast<Real*>(p.weight_sums)[tile * p.segments.rows + row] = sum;
}

// Blocks that fit a multiprocessor at least, which bounds the registers of a thread.
template <Direction direction, class T>
constexpr int kMinBlocksGeneral = sizeof(T) == 8 ? (direction == Direction::kForward ? 8 : 4)
                                  : direction == Direction::kForward  ? (sizeof(T) == 2 ? 12 : 10)
                                  : direction == Direction::kBackward ? 8
                                                                      : 9;

template <Direction direction, class T>
__global__ void __launch_bounds__(kBlock, kMinBlocksGeneral<direction, T>)
    general_kernel(const __grid_constant__ GeneralParams p) {
  using Math = MathOf<T, 1>;
  using Real = typename Math::Real;
  constexpr int kRows = sizeof(T) == 8 ? 1 : 2;  // at once, for enough loads in flight
  // Second derivatives are those of calls without row weights and experts.
  constexpr bool kOfRows = direction != Direction::kDoubleBackward;
  let_next_kernel_start();

  const int64_t tile = blockIdx.x % p.tiles, index = blockIdx.x / p.tiles;
  const int64_t lanes = int64_t{1} << p.log2_lanes;
  const int64_t lane = threadIdx.x & (lanes - 1), column = tile * lanes + lane;
  const int64_t strand = threadIdx.x >> p.log2_lanes, strands = kBlock >> p.log2_lanes;

  wait_for_previous_kernel();
  Segments segments = p.segments;
  if constexpr (!kOfRows) segments.experts = {};
  const Segment segment = segments.at(index);
  const int64_t packed = p.block ? column + column / p.block * p.block : column * p.step;

  const int64_t experts = segments.experts.count;
  Numbers<Real> numbers{Real(0.0f), Real(0.0f), static_cast<Real>(p.limit),
                        static_cast<Real>(p.weight)};
  Real gate_bias(0.0f), up_bias(0.0f);
  if (column < p.cols && !(experts && segment.expert == experts)) {
    const auto value = [&](const RowVector& row, double otherwise) {
      return load_row<T, Real>(row, segment.expert, column, otherwise);
    };
    numbers.parameter = value(p.parameters[0], p.scalars[0]);
    numbers.second = value(p.parameters[1], p.scalars[1]);
    // adding -0 changes nothing, not even the sign of 0
    gate_bias = value(p.gate_bias, -0.0);
    up_bias = value(p.up_bias, -0.0);
  }
  Real sums[4] = {Real(0.0f), Real(0.0f), Real(0.0f), Real(0.0f)};

  int64_t end = segment.end;
  if (experts && segments.experts.of_row) {
    bool any = false;
    for (int64_t row = segment.begin + threadIdx.x; row < segment.end; row += kBlock)
      any |= RowKind(segments, segment, row).own;
    if (!__syncthreads_or(any)) end = segment.begin;
  }
  // The threads of a warp stay together, for they add up what is of a row.
  for (int64_t first = segment.begin; first < end; first += kRows * strands) {
    Position<T> at[kRows];
    bool own[kRows], live[kRows];
    Vector<T, 1> seed[kRows];
    Real weight[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      at[k].row = first + strand + k * strands;
      at[k].column = column;
      at[k].packed = packed;
      const RowKind kind(segments, segment, at[k].row);
      const bool there = column < p.cols && at[k].row * p.cols + column < p.end;
      own[k] = kind.own && there;
      live[k] = kind.live && there;
      weight[k] = numbers.weight;
      if (kOfRows && live[k] && p.row_weight.data)
        weight[k] = weight[k] * number_at<T>(p.row_weight.data, p.row_weight.in_real, at[k].row);
      if constexpr (direction != Direction::kForward) {
        seed[k] = {};
        if (live[k] && p.grad_out.data) load(at[k].in(p.grad_out), seed[k]);
      }
    }
    Inputs<Real> inputs[kRows];
    if (p.pairs) {
      load_inputs<direction, true, T>(p, at, live, inputs);
    } else {
      load_inputs<direction, false, T>(p, at, live, inputs);
    }
    Real out[kRows];
    Gradients<Real> grads[kRows];
    visit_variant(p.variant, [&](auto functions) {
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        const GatedUnit<decltype(functions), Math> unit(
            {numbers.parameter, numbers.second, numbers.limit, weight[k]}, gate_bias, up_bias);
        const Inputs<Real>& x = inputs[k];
        if constexpr (direction == Direction::kForward) {
          out[k] = unit.forward(x.gate, x.up);
        } else if constexpr (direction == Direction::kBackward) {
          grads[k] = unit.backward(get<Real>(seed[k], 0), x.gate, x.up);
        } else {
          const auto second = unit.double_backward(get<Real>(seed[k], 0), x.gate, x.up,
                                                   x.gate_tangent, x.up_tangent);
          out[k] = second.grad_out;
          grads[k].gate = second.gate;
          grads[k].up = second.up;
        }
      }
    });
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      // Not multiplied by 0: what padding holds may be anything.
      if (!live[k]) {
        out[k] = Real(0.0f);
        grads[k] = {};
      }
      if constexpr (direction == Direction::kBackward) {
        if (p.weight_sums) store_weight_sum(p, grads[k].weight, tile, at[k].row, own[k]);
      }
      if (!own[k] || (direction == Direction::kForward && !live[k] && !p.zeroes_padding)) continue;
      Vector<T, 1> rounded;
      if constexpr (direction != Direction::kBackward) {
        set(rounded, 0, out[k]);
        if (p.out.data) store(rounded, at[k].in(p.out));
      } else if (p.product) {
        set(rounded, 0, grads[k].product);
        store(rounded, at[k].in(p.grad_out));
      }
      if constexpr (direction != Direction::kForward)
        store_gradients<T>(p, at[k], grads[k].gate, grads[k].up);
      if constexpr (direction == Direction::kBackward) {
        sums[0] = sums[0] + grads[k].gate;
        sums[1] = sums[1] + grads[k].up;
        sums[2] = sums[2] + grads[k].parameter;
        sums[3] = sums[3] + grads[k].second;
      }
    }
  }
  if constexpr (direction == Direction::kBackward) {
    if (!p.has_sums) return;
    if (p.counters && blockIdx.x == 0 && threadIdx.x < kMostSums) p.counters[threadIdx.x] = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (p.sums[i]) store_sum(p.sums[i], sums[i], index, column, p.cols, p.log2_lanes);
  }
}

}  // namespace fused_acts::cuda
