// From a quantised call to its kernel.
#pragma once

#include "cuda/launch.h"
#include "cuda/quantized_kernels.cuh"

namespace fused_acts::cuda {

// Whether all operands can be accessed by the columns of a thread, of gate and up 16 bytes at once.
template <class C>
bool takes_vectors(const QuantizedArgs& args) {
  const GluArgs& glu = args.glu;
  constexpr int columns = C::kColumns;
  const int bytes = args.format == Format::kNvfp4 ? columns / 2 : columns;
  const int64_t stride = glu.rows == 1 ? 0 : args.values.row_stride;
  return internal::is_aligned(glu, columns / C::kVectors) && glu.cols % columns == 0 &&
         glu.block % columns == 0 && reinterpret_cast<uintptr_t>(args.values.data) % bytes == 0 &&
         stride % bytes == 0;
}

template <class C>
QuantizedParams quantized_params(const QuantizedArgs& args) {
  using T = typename C::T;
  constexpr int kColumns = C::kColumns;
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
  p.cols = static_cast<uint32_t>(glu.cols);
  p.vectors = static_cast<uint32_t>(ceil_div(glu.cols, kColumns));
  p.lines = static_cast<uint32_t>(p.scales.matrices * p.scales.padded_rows);
  p.padded_rows = make_divider(p.scales.padded_rows);
  p.step = glu.step;
  p.block = glu.block;
  p.whole = takes_vectors<C>(args);
  p.block_vectors = static_cast<uint32_t>(glu.block / kColumns);
  p.blocks = make_divider(std::max<int64_t>(p.block_vectors, 1));
  p.identity = args.identity;
  p.plain = !args.identity && glu.unit->has_plain_kernels && !glu.has_options();
  p.single = args.single || sizeof(T) == 4;
  p.packed = args.scales.layout == ScaleLayout::kPackedUe8m0;
  p.power = args.power || p.packed || args.format == Format::kMxfp8;
  p.zeroes_padding = glu.zeroes_padding;
  p.variant = glu.unit->variant;
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
int64_t bytes_of_values(const QuantizedParams& p) {
  return C::kWithRows ? p.vectors_of_columns * C::kColumns * sizeof(float) : 0;
}

template <class C>
cudaError_t launch_groups(const QuantizedArgs& args, cudaStream_t stream) {
  QuantizedParams p = quantized_params<C>(args);
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
                       static_cast<size_t>(kBlock * bytes_of_values<C>(p)), stream, p);
}

template <class C>
cudaError_t launch_scaled_rows(const QuantizedArgs& args, cudaStream_t stream) {
  constexpr int kWarp = 32;
  QuantizedParams p = quantized_params<C>(args);
  // As many threads as go through the row in equally many steps: of more than a warp two at least,
  // because what a thread does once is about as much as a step.
  const int64_t steps =
      std::max<int64_t>(ceil_div(p.vectors, kQuantizedThreads<C>), p.vectors > kWarp ? 2 : 1);
  const int64_t warps = std::max<int64_t>(ceil_div(ceil_div(p.vectors, steps), kWarp), 1);
  const dim3 block(static_cast<unsigned>(warps * kWarp), warps == 1 ? kBlock / kWarp : 1);
  const int64_t values = int64_t{block.x} * block.y * bytes_of_values<C>(p);
  const int64_t kept = int64_t{block.y} * p.vectors * C::kColumns * sizeof(float);
  p.keeps = values + kept <= kMostShared;
  return launch_kernel(quantized_rows_kernel<C>, static_cast<unsigned>(ceil_div(p.lines, block.y)),
                       block, static_cast<size_t>(values + (p.keeps ? kept : 0)), stream, p);
}

template <class T>
cudaError_t launch_quantized(const QuantizedArgs& args, cudaStream_t stream) {
  const GluArgs& glu = args.glu;
  const int64_t lines =
      args.scales.data ? args.scales.matrices * args.scales.padded_rows : glu.rows;
  if (lines == 0) return cudaSuccess;
  if (lines >= kThreadsEnd || glu.cols >= kThreadsEnd) return cudaErrorInvalidConfiguration;
  const bool plain = args.identity || (glu.unit->has_plain_kernels && !glu.has_options());
  const bool with_rows = glu.has_row_operands() || !(plain || glu.unit->takes_numbers);
  using WithRows = QuantizedConfig<T, true>;
  if (group_columns(args.format) == 0 && args.format != Format::kFp8Tensor)
    return with_rows ? launch_scaled_rows<WithRows>(args, stream)
                     : launch_scaled_rows<QuantizedConfig<T, false>>(args, stream);
  // What a thread does once is about as much as what it does for 16 bytes.
  using TwoVectors = QuantizedConfig<T, false, 2>;
  return with_rows || !takes_vectors<TwoVectors>(args) ? launch_groups<WithRows>(args, stream)
                                                       : launch_groups<TwoVectors>(args, stream);
}

}  // namespace fused_acts::cuda
