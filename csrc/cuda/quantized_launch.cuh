// From a quantised call to its kernel.
#pragma once

#include "cuda/launch.h"
#include "cuda/quantized_kernels.cuh"

namespace fused_acts::cuda {

// Whether all operands can be accessed by so many columns.
inline bool takes_vectors(const QuantizedArgs& args, int columns) {
  const GluArgs& glu = args.glu;
  const int bytes = args.format == Format::kNvfp4 ? columns / 2 : columns;
  const int64_t stride = glu.rows == 1 ? 0 : args.values.row_stride;
  return internal::is_aligned(glu, columns) && glu.cols % columns == 0 &&
         reinterpret_cast<uintptr_t>(args.values.data) % bytes == 0 && stride % bytes == 0;
}

template <class T>
QuantizedParams quantized_params(const QuantizedArgs& args) {
  constexpr int kColumns = QuantizedConfig<T, false>::kColumns;
  const GluArgs& glu = args.glu;
  const auto operand = [&](const Matrix& m) {
    return QuantizedOperand{static_cast<const char*>(m.data),
                            m.row_stride * static_cast<int64_t>(sizeof(T))};
  };
  QuantizedParams p{};
  p.gate = operand(glu.gate);
  p.up = operand(glu.up);
  p.values = static_cast<char*>(args.values.data);
  p.value_row_bytes = args.values.row_stride;
  p.scales = args.scales;
  if (!p.scales.data) {
    p.scales.matrices = glu.experts.counts ? glu.rows / glu.experts.rows_each : 1;
    p.scales.padded_rows = p.scales.rows = glu.rows / p.scales.matrices;
  }
  p.tensor_scale = args.tensor_scale;
  p.cols = glu.cols;
  p.vectors = static_cast<uint32_t>(ceil_div(glu.cols, kColumns));
  p.lines = static_cast<uint32_t>(p.scales.matrices * p.scales.padded_rows);
  p.padded_rows = make_divider(p.scales.padded_rows);
  p.step = glu.step;
  p.block = glu.block;
  p.whole = takes_vectors(args, kColumns);
  p.block_vectors = static_cast<uint32_t>(glu.block / kColumns);
  p.blocks = make_divider(std::max<int64_t>(p.block_vectors, 1));
  p.identity = args.identity;
  p.plain = !args.identity && has_plain_kernels(glu.variant) && !glu.has_options();
  p.single = args.single || sizeof(T) == 4;
  p.packed = args.scales.layout == ScaleLayout::kPackedUe8m0;
  p.power = args.power || p.packed || args.format == Format::kMxfp8;
  p.zeroes_padding = glu.zeroes_padding;
  p.variant = glu.variant;
  p.format = args.format;
  p.amax_floor = args.amax_floor;
  p.limit = static_cast<float>(glu.limit);
  p.weight = static_cast<float>(glu.weight);
  const auto of_columns = [&](const RowVector& v, float otherwise) {
    const int size = v.in_real ? 4 : sizeof(T);
    const bool whole = p.whole && v.col_stride == 1 && v.expert_stride * size % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
    return QuantizedVector{v, otherwise, whole, v.data ? p.vectors_of_columns++ : 0};
  };
  // adding -0 changes nothing, not even the sign of 0
  p.of_columns[0] = of_columns(glu.gate_bias, -0.0f);
  p.of_columns[1] = of_columns(glu.up_bias, -0.0f);
  for (int i = 0; i < 2; ++i)
    p.of_columns[2 + i] = of_columns(glu.parameters[i], static_cast<float>(glu.scalars[i]));
  p.row_weight = glu.row_weight;
  p.rows = {glu.experts, static_cast<int32_t>(glu.rows), make_divider(1)};
  return p;
}

template <class C>
cudaError_t launch_quantized_config(const QuantizedArgs& args, cudaStream_t stream) {
  constexpr int kWarp = 32;
  const Scales& scales = args.scales;
  const int64_t lines = scales.data ? scales.matrices * scales.padded_rows : args.glu.rows;
  if (lines == 0) return cudaSuccess;
  if (lines >= kThreadsEnd || args.glu.cols / C::kColumns >= kThreadsEnd)
    return cudaErrorInvalidConfiguration;
  QuantizedParams p = quantized_params<typename C::T>(args);
  const int64_t of_thread = C::kColumns * sizeof(float);
  const int64_t values_of_thread = C::kWithRows ? p.vectors_of_columns * of_thread : 0;
  if (group_columns(args.format) || args.format == Format::kFp8Tensor) {
    const int64_t group = std::max<int64_t>(group_columns(args.format) / C::kColumns, 1);
    const int64_t vectors = p.scales.data ? p.scales.padded_groups * group : p.vectors;
    const auto log2_up = [](int64_t n) {
      int log2 = 0;
      while (log2 < 5 && (int64_t{1} << log2) < n) ++log2;
      return log2;
    };
    p.log2_group = log2_up(group);
    p.log2_lanes = log2_up(vectors);
    const int64_t tiles = ceil_div(vectors, int64_t{1} << p.log2_lanes);
    const int64_t blocks = tiles * ceil_div(p.lines, kBlock >> p.log2_lanes);
    if (blocks == 0) return cudaSuccess;
    if (blocks >= kThreadsEnd) return cudaErrorInvalidConfiguration;
    p.tiles = make_divider(tiles);
    return launch_kernel(quantized_groups_kernel<C>, static_cast<unsigned>(blocks), kBlock,
                         static_cast<size_t>(kBlock * values_of_thread), stream, p);
  }
  // As many threads as go through the row in equally many steps.
  const int64_t steps = std::max<int64_t>(ceil_div(p.vectors, kQuantizedThreads<C>), 1);
  const int64_t warps = std::max<int64_t>(ceil_div(ceil_div(p.vectors, steps), kWarp), 1);
  const dim3 block(static_cast<unsigned>(warps * kWarp), warps == 1 ? kBlock / kWarp : 1);
  const int64_t values = int64_t{block.x} * block.y * values_of_thread;
  const int64_t kept = int64_t{block.y} * p.vectors * of_thread;
  p.keeps = values + kept <= kMostShared;
  return launch_kernel(quantized_rows_kernel<C>, static_cast<unsigned>(ceil_div(p.lines, block.y)),
                       block, static_cast<size_t>(values + (p.keeps ? kept : 0)), stream, p);
}

template <class T>
cudaError_t launch_quantized(const QuantizedArgs& args, cudaStream_t stream) {
  const GluArgs& glu = args.glu;
  const bool plain = args.identity || (has_plain_kernels(glu.variant) && !glu.has_options());
  return glu.has_row_operands() || !(plain || takes_numbers(glu.variant))
             ? launch_quantized_config<QuantizedConfig<T, true>>(args, stream)
             : launch_quantized_config<QuantizedConfig<T, false>>(args, stream);
}

}  // namespace fused_acts::cuda
