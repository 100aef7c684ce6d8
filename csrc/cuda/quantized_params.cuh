// What a kernel of quantised results is given, and where in it a thread is.
#pragma once

#include "cuda/divider.h"
#include "cuda/vector.cuh"
#include "kernels/quantized.h"

namespace fused_acts::cuda {

struct QuantizedOperand {
  const char* data;
  int64_t row_bytes;
};

// One value a column, or one for all.
struct QuantizedVector {
  RowVector vector;
  float otherwise;  // where there is no vector
  bool whole;       // whether the columns of a thread can be read at once
  int place;        // among those that there are
};

struct QuantizedParams {
  QuantizedOperand gate, up;
  char* values;
  int64_t value_row_bytes;
  Scales scales;
  const float* tensor_scale;
  uint32_t cols, vectors, lines;  // of a row; rows, those of the padding of scales too
  Divider tiles, padded_rows, blocks;
  int log2_lanes, log2_group;  // threads of a block to a row, and to a group
  int step;
  int64_t block;
  uint32_t block_vectors;
  bool whole;  // whether all operands can be accessed by the columns of a thread
  bool plain, identity, single, power, packed, keeps, zeroes_padding;
  Variant variant;
  Format format;
  float amax_floor, limit, weight;
  QuantizedVector of_columns[4];  // gate_bias, up_bias and two parameters
  int vectors_of_columns;         // that there are
  ColumnVector row_weight;
  SegmentsOf<int32_t, Divider> rows;
};

template <class StorageType, bool with_rows, int vectors = 1>
struct QuantizedConfig {
  using T = StorageType;
  static constexpr bool kWithRows = with_rows;
  static constexpr int kVectors = vectors;                    // of a thread, of 16 bytes
  static constexpr int kColumns = kVectors * 16 / sizeof(T);  // in them
  static constexpr int kWords = kColumns / 4;                 // of their values
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  static constexpr int kLanes = cuda::kLanes<Real>;
  static constexpr int kParts = kColumns / kLanes;  // of a vector, a Real each
  using Shared = std::conditional_t<kLanes == 2, float2, float>;
};

// A row of the matrices, or of the padding of scales.
struct QuantizedRow {
  uint32_t matrix, in_matrix, row;
  bool exists, there, live;  // its scales, its values, and whether they are computed
  int32_t expert = 0;
  float weight;

  template <class C>
  FUSED_ACTS_DEVICE QuantizedRow(const QuantizedParams& p, C, uint32_t line) {
    matrix = divide(line, p.padded_rows);
    in_matrix = line + matrix * p.padded_rows.minus_divisor;
    const auto rows = static_cast<uint32_t>(p.scales.rows);
    row = matrix * rows + in_matrix;
    exists = line < p.lines;
    there = live = exists && in_matrix < rows;
    weight = p.weight;
    if constexpr (C::kWithRows) {
      if (!there) return;
      const Experts& experts = p.rows.experts;
      if (experts.counts) {
        expert = matrix;
        live = static_cast<int32_t>(in_matrix) < experts.counts[matrix];
      } else if (experts.of_row) {
        expert = experts.of_row[row];
        live = expert >= 0 && (!experts.count || expert < experts.count);
      } else if (experts.ends) {
        const auto segment = p.rows.at(static_cast<int32_t>(row));
        expert = segment.expert;
        live = static_cast<int32_t>(row) < segment.live_end;
      }
      if (live && p.row_weight.data)
        weight *= number_at<typename C::T>(p.row_weight.data, p.row_weight.in_real, row);
    }
  }
};

}  // namespace fused_acts::cuda
