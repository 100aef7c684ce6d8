// The kernels of quantised results, for any unit, layout, alignment and format: one where a group
// of columns shares a scale, or all values do, and one where a row does. Both are without row
// operands and with them. They branch, all threads alike, to the unit and the format of a call.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/quantize.cuh"
#include "cuda/quantized_columns.cuh"

namespace fused_acts::cuda {

FUSED_ACTS_DEVICE void store_scale(const QuantizedParams& p, const QuantizedRow& row,
                                   uint32_t group, bool live, uint32_t bits) {
  Scales scales = p.scales;  // of numbers that are known to have 32 bits
  for (int64_t* n : {&scales.groups, &scales.padded_rows, &scales.padded_groups})
    *n = static_cast<uint32_t>(*n);
  const int64_t at = scales.offset(row.matrix, row.in_matrix, group);
  if (!live) bits = scales.padding_bits();
  if (scales.element_size == 4) {
    static_cast<uint32_t*>(scales.data)[at] = bits;
  } else {
    static_cast<uint8_t*>(scales.data)[at] = bits;
  }
}

// Of a group, or of all values.
FUSED_ACTS_DEVICE GroupDivisor divisor_of(const QuantizedParams& p, float largest,
                                          GroupScale& scale) {
  const float tensor_scale = takes_scale(p.format) ? *p.tensor_scale : 1.0f;
  scale = {tensor_scale, 0};
  if (p.format != Format::kFp8Tensor)
    scale = group_scale(p.format, largest, p.amax_floor, p.power, p.packed, tensor_scale);
  return p.power ? GroupDivisor(scale) : GroupDivisor(p.format, scale, tensor_scale, largest);
}

template <class C>
__global__ void __launch_bounds__(kBlock, C::kWithRows ? 7 : 8)
    quantized_groups_kernel(const __grid_constant__ QuantizedParams p) {
  constexpr int kColumns = C::kColumns;
  let_next_kernel_start();
  const uint32_t index = divide(blockIdx.x, p.tiles);
  const uint32_t tile = blockIdx.x + index * p.tiles.minus_divisor;
  const uint32_t lane = threadIdx.x & ((1u << p.log2_lanes) - 1);
  const uint32_t line = index * (kBlock >> p.log2_lanes) + (threadIdx.x >> p.log2_lanes);
  const uint32_t vector = (tile << p.log2_lanes) + lane;
  wait_for_previous_kernel();
  const QuantizedRow row(p, C{}, line);
  const QuantizedColumns<C> columns(p, row, vector);
  const bool has_columns = columns.column < p.cols;
  float y[kColumns] = {}, largest = 0.0f;
  if (row.live && has_columns) columns.compute(y);
#pragma unroll
  for (int k = 0; k < kColumns; ++k) largest = larger_magnitude(largest, y[k]);
  largest = largest_of_lanes(largest, 1 << p.log2_group);
  GroupScale scale;
  const GroupDivisor divisor = divisor_of(p, largest, scale);
  if (p.scales.data && row.exists && (vector & ((1u << p.log2_group) - 1)) == 0) {
    const uint32_t group = vector >> p.log2_group;
    if (group < static_cast<uint32_t>(p.scales.padded_groups))
      store_scale(p, row, group, row.live && has_columns, scale.bits);
  }
  if (!has_columns || !(row.live || (row.there && p.zeroes_padding))) return;
  uint32_t words[C::kWords] = {};
  if (row.live) {
    divide_columns(p.format, p.power, divisor, y);
    to_codes(p.format, y, words);
  }
  columns.store(words);
}

// Of a block at most, of which two fit a multiprocessor.
template <class C>
constexpr int kQuantizedThreads = C::kWithRows ? 448 : 512;

// Over the threads of a row: a warp, or the block.
FUSED_ACTS_DEVICE float largest_of_row(float largest) {
  constexpr int kWarp = 32;
  largest = largest_of_lanes(largest, kWarp);
  if (blockDim.x == kWarp) return largest;
  __shared__ float of_warps[kWarp];
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) of_warps[threadIdx.x / kWarp] = largest;
  __syncthreads();
  largest = lane < blockDim.x / kWarp ? of_warps[lane] : 0.0f;
  return largest_of_lanes(largest, kWarp);
}

// What is to be quantised is kept in shared memory, or computed again where a row does not fit.
template <class C>
__global__ void __launch_bounds__(kQuantizedThreads<C>, 2)
    quantized_rows_kernel(const __grid_constant__ QuantizedParams p) {
  constexpr int kColumns = C::kColumns;
  let_next_kernel_start();
  const uint32_t line = blockIdx.x * blockDim.y + threadIdx.y;
  extern __shared__ uint4 shared[];
  uint4* const kept =
      shared +
      (p.vectors_of_columns * blockDim.x * blockDim.y + threadIdx.y * p.vectors) * C::kWords;
  wait_for_previous_kernel();
  const QuantizedRow row(p, C{}, line);
  const auto place = [&](uint32_t vector, int word) -> uint4& {
    return kept[word * p.vectors + vector];
  };
  float largest = 0.0f;
  GroupScale scale{1.0f, 0};
  GroupDivisor divisor(scale);
  const auto quantize = [&](const QuantizedColumns<C>& columns, float (&y)[kColumns]) {
    uint32_t words[C::kWords] = {};
    if (row.live) {
      divide_columns(p.format, p.power, divisor, y);
      to_codes(p.format, y, words);
    }
    columns.store(words);
  };
  // the code of all units is there once: also for the second pass over what was not kept
#pragma unroll 1
  for (bool again = false;; again = true) {
#pragma unroll 1
    for (uint32_t vector = threadIdx.x; row.live && vector < p.vectors; vector += blockDim.x) {
      const QuantizedColumns<C> columns(p, row, vector);
      float y[kColumns];
      columns.compute(y);
      if (again) {
        quantize(columns, y);
        continue;
      }
#pragma unroll
      for (int k = 0; k < kColumns; ++k) largest = larger_magnitude(largest, y[k]);
      if (!p.keeps) continue;
#pragma unroll
      for (int word = 0; word < C::kWords; ++word) {
        const float* const of = y + 4 * word;
        place(vector, word) =
            make_uint4(bits_of(of[0]), bits_of(of[1]), bits_of(of[2]), bits_of(of[3]));
      }
    }
    if (again) return;
    largest = largest_of_row(largest);
    divisor = divisor_of(p, largest, scale);
    if (threadIdx.x == 0 && row.exists) store_scale(p, row, 0, row.live, scale.bits);
    if (!(row.live || (row.there && p.zeroes_padding))) return;
    if (p.keeps || !row.live) break;
  }
#pragma unroll 1
  for (uint32_t vector = threadIdx.x; vector < p.vectors; vector += blockDim.x) {
    float y[kColumns] = {};
    if (row.live) {
#pragma unroll
      for (int word = 0; word < C::kWords; ++word) {
        const uint4 bits = place(vector, word);
        float* const of = y + 4 * word;
        of[0] = float_of(bits.x);
        of[1] = float_of(bits.y);
        of[2] = float_of(bits.z);
        of[3] = float_of(bits.w);
      }
    }
    quantize(QuantizedColumns<C>(p, row, vector), y);
  }
}

}  // namespace fused_acts::cuda
