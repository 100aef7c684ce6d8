// The kernels of quantised results, for any unit, layout, alignment and format: one where a group
// of columns shares a scale, or all values do, and one where a row does. Both are without row
// operands and with them. They branch, all threads alike, to the unit and the format of a call.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/divider.h"
#include "cuda/plan.h"
#include "cuda/quantize.cuh"
#include "kernels/quantized.h"
#include "math/unit.h"

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
  int64_t cols;
  uint32_t vectors, lines;  // of a row; rows, those of the padding of scales too
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

template <class StorageType, bool with_rows>
struct QuantizedConfig {
  using T = StorageType;
  static constexpr bool kWithRows = with_rows;
  static constexpr int kColumns = 16 / sizeof(T);  // of a thread at once
  static constexpr int kWords = kColumns / 4;      // of their values
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  static constexpr int kLanes = cuda::kLanes<Real>;
  static constexpr int kParts = kColumns / kLanes;  // of a vector, a Real each
  using Shared = std::conditional_t<kLanes == 2, float2, float>;
};

// A row of the matrices, or of the padding of scales.
struct QuantizedRow {
  uint32_t matrix, in_matrix;
  int64_t row;
  bool exists, there, live;  // its scales, its values, and whether they are computed
  int32_t expert = 0;
  float weight;

  template <class C>
  FUSED_ACTS_DEVICE QuantizedRow(const QuantizedParams& p, C, uint32_t line) {
    matrix = divide(line, p.padded_rows);
    in_matrix = line + matrix * p.padded_rows.minus_divisor;
    row = matrix * p.scales.rows + in_matrix;
    exists = line < p.lines;
    there = live = exists && in_matrix < p.scales.rows;
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

// The neighbours that a thread computes.
template <class C>
struct QuantizedColumns {
  using T = typename C::T;
  static constexpr int kColumns = C::kColumns;
  const QuantizedParams& p;
  const QuantizedRow& row;
  uint32_t vector;
  int64_t column;

  FUSED_ACTS_DEVICE QuantizedColumns(const QuantizedParams& p, const QuantizedRow& row,
                                     uint32_t vector)
      : p(p), row(row), vector(vector), column(int64_t{vector} * kColumns) {}

  // One by one: calls visitor(k, where column k is in gate and up) for those that there are.
  template <class Visitor>
  FUSED_ACTS_DEVICE void for_each(Visitor visitor) const {
    int64_t turn = p.block ? column / p.block : 0, in_block = column - turn * p.block;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (column + k < p.cols) visitor(k, (column + k + turn * p.block) * p.step);
      if (p.block && ++in_block == p.block) {
        in_block = 0;
        ++turn;
      }
    }
  }

  FUSED_ACTS_DEVICE void read(GateUp<T, kColumns, false>& x) const {
    const char* const gate = p.gate.data + row.row * p.gate.row_bytes;
    const char* const up = p.up.data + row.row * p.up.row_bytes;
    x = {};
    if (p.whole) {
      const bool pairs = p.step == 2;
      const uint64_t packed = pairs     ? 2 * vector
                              : p.block ? vector + divide(vector, p.blocks) * p.block_vectors
                                        : vector;
      load_cached(gate + packed * 16, x.gate_vector);
      if (p.up.data) load_cached((pairs ? gate + 16 : up) + packed * 16, x.up_vector);
      if (pairs) deinterleave(x.gate_vector, x.up_vector);
      return;
    }
    const auto read_one = [&](const char* from, int64_t place, int k, Vector<T, kColumns>& to) {
      Vector<T, 1> one;
      load(from + place * static_cast<int64_t>(sizeof(T)), one);
      constexpr int kInWord = 4 / sizeof(T);
      to.words[k / kInWord] |= one.words[0] << (k % kInWord * 16);
    };
    for_each([&](int k, int64_t place) {
      read_one(gate, place, k, x.gate_vector);
      if (p.up.data) read_one(up, place, k, x.up_vector);
    });
  }

  // What the columns have, gate_bias for example.
  FUSED_ACTS_DEVICE void read(const QuantizedVector& of, float (&values)[kColumns]) const {
    const int64_t first = row.expert * of.vector.expert_stride;
    if (of.whole) {
      const auto read_as = [&](auto type) {
        using S = decltype(type);
        constexpr int kPart = 16 / sizeof(S);
#pragma unroll
        for (int part = 0; part < kColumns; part += kPart) {
          Vector<S, kPart> x;
          load_cached(static_cast<const char*>(of.vector.data) +
                          (first + column + part) * static_cast<int64_t>(sizeof(S)),
                      x);
#pragma unroll
          for (int k = 0; k < kPart; ++k) values[part + k] = element(x, k);
        }
      };
      of.vector.in_real ? read_as(float{}) : read_as(T{});
      return;
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      values[k] = 0.0f;
      if (column + k < p.cols)
        values[k] = number_at<T>(of.vector.data, of.vector.in_real,
                                 first + (column + k) * of.vector.col_stride);
    }
  }

  // Of a vector the thread's values, in its own part of shared memory: in registers they would
  // leave room for too few threads.
  FUSED_ACTS_DEVICE typename C::Shared& kept(int place, int part) const {
    extern __shared__ uint4 shared[];
    const unsigned threads = blockDim.x * blockDim.y;
    return reinterpret_cast<typename C::Shared*>(
        shared)[(place * C::kParts + part) * threads + threadIdx.y * blockDim.x + threadIdx.x];
  }
  FUSED_ACTS_DEVICE void keep_values() const {
#pragma unroll 1
    for (const QuantizedVector& of : p.of_columns) {
      if (!of.vector.data) continue;
      float values[kColumns];
      read(of, values);
#pragma unroll
      for (int part = 0; part < C::kParts; ++part) {
        if constexpr (C::kLanes == 2) {
          kept(of.place, part) = make_float2(values[2 * part], values[2 * part + 1]);
        } else {
          kept(of.place, part) = values[part];
        }
      }
    }
  }

  // What is to be quantised; 0 where there is no column.
  FUSED_ACTS_DEVICE void compute(float (&y)[kColumns]) const {
    GateUp<T, kColumns, false> x;
    read(x);
    if constexpr (C::kWithRows) keep_values();
    if (p.identity) {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) y[k] = element(x.gate_vector, k);
      return;
    }
    visit_variant(p.variant, [&](auto unit) { compute<decltype(unit)>(x, y); });
    if (!p.single) {
#pragma unroll
      for (int k = 0; k < kColumns; k += 2) {
        Vector<T, 2> pair;
        set_pair(pair, 0, y[k], y[k + 1]);
        y[k] = element(pair, 0);
        y[k + 1] = element(pair, 1);
      }
    }
    if (!p.whole) {
#pragma unroll
      for (int k = 0; k < kColumns; ++k)
        if (column + k >= p.cols) y[k] = 0;
    }
  }

  FUSED_ACTS_DEVICE void store(const uint32_t (&words)[C::kWords]) const {
    const bool halves = p.format == Format::kNvfp4;
    char* const to = p.values + row.row * p.value_row_bytes + (halves ? column / 2 : column);
    if (p.whole && kColumns == 8) {
      if (halves) {
        *reinterpret_cast<uint32_t*>(to) = words[0];
      } else {
        *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[C::kWords - 1]);
      }
    } else if (p.whole) {
      if (halves) {
        *reinterpret_cast<uint16_t*>(to) = words[0];
      } else {
        *reinterpret_cast<uint32_t*>(to) = words[0];
      }
    } else {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        if (column + (halves ? 2 * k : k) < p.cols && (!halves || 2 * k < kColumns))
          to[k] = static_cast<char>(words[k / 4] >> k % 4 * 8);
      }
    }
  }

 private:
  template <class Unit>
  FUSED_ACTS_DEVICE void compute(const GateUp<T, kColumns, false>& x, float (&y)[kColumns]) const {
    using Real = typename C::Real;
    const auto all = [&](const auto& unit_of) {
#pragma unroll
      for (int k = 0; k < kColumns; k += C::kLanes) {
        // never true: as in the flat kernels, what is before it needs no registers behind it
        if (k > 0 && p.vectors == ~uint32_t{0} - k) break;
        const Real value = unit_of(k).forward(x.template gate<Real>(k), x.template up<Real>(k));
        if constexpr (C::kLanes == 2) {
          y[k] = value.lo;
          y[k + 1] = value.hi;
        } else {
          y[k] = value;
        }
      }
    };
    if constexpr (C::kWithRows) {
      all([&](int k) {
        const auto value = [&](int i, bool has) {
          const QuantizedVector& of = p.of_columns[i];
          if (!has || !of.vector.data) return Real(has ? of.otherwise : 1.0f);
          const auto shared = kept(of.place, k / C::kLanes);
          if constexpr (C::kLanes == 2) {
            return Real(shared.x, shared.y);
          } else {
            return shared;
          }
        };
        return GatedUnit<Unit, typename C::Math>(
            {value(2, Unit::kHasParameter), value(3, Unit::kHasSecond), Real(p.limit),
             Real(row.weight)},
            value(0, true), value(1, !Unit::kIsUnary));
      });
      return;
    }
    if constexpr (kHasPlainKernels<Unit>) {
      if (p.plain) {
        const Numbers<Real> none{Real(1.0f), Real(1.0f), Real(1.0f), Real(1.0f)};
        return all([&](int) {
          return GatedUnit<Unit, typename C::Math, Options::kNone>(none, Real(0.0f), Real(0.0f));
        });
      }
    }
    if constexpr (kTakesNumbers<Unit>) {
      const auto parameter = [&](int i) {
        const QuantizedVector& of = p.of_columns[i];
        return Real(of.vector.data ? number_at<T>(of.vector.data, of.vector.in_real, 0)
                                   : of.otherwise);
      };
      const Numbers<Real> numbers{Unit::kHasParameter ? parameter(2) : Real(1.0f),
                                  Unit::kHasSecond ? parameter(3) : Real(1.0f), Real(p.limit),
                                  Real(p.weight)};
      all([&](int) {
        return GatedUnit<Unit, typename C::Math, Options::kWeighted>(numbers, Real(0.0f),
                                                                     Real(0.0f));
      });
    }
  }
};

FUSED_ACTS_DEVICE void store_scale(const QuantizedParams& p, const QuantizedRow& row,
                                   uint32_t group, bool live, uint32_t bits) {
  const int64_t at = p.scales.offset(row.matrix, row.in_matrix, group);
  if (!live) bits = p.scales.padding_bits();
  if (p.scales.element_size == 4) {
    static_cast<uint32_t*>(p.scales.data)[at] = bits;
  } else {
    static_cast<uint8_t*>(p.scales.data)[at] = bits;
  }
}

// Of a group, or of all values.
FUSED_ACTS_DEVICE GroupDivisor divisor_of(const QuantizedParams& p, float largest,
                                          GroupScale& scale) {
  const float tensor_scale = takes_scale(p.format) ? *p.tensor_scale : 1.0f;
  scale = {tensor_scale, 0};
  if (p.format != Format::kFp8Tensor)
    scale = group_scale(p.format, largest, p.amax_floor, p.power, p.packed, tensor_scale);
  return p.power ? GroupDivisor(scale) : GroupDivisor(p.format, scale, tensor_scale);
}

template <class C>
__global__ void __launch_bounds__(kBlock, C::kWithRows ? 7 : 10)
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
    if (group < p.scales.padded_groups)
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
  float largest = 0.0f;
  GroupScale scale{1.0f, 0};
  GroupDivisor divisor(scale);
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    const bool visits = row.live || (pass == 1 && row.there && p.zeroes_padding);
#pragma unroll 1
    for (uint32_t vector = threadIdx.x; visits && vector < p.vectors; vector += blockDim.x) {
      const QuantizedColumns<C> columns(p, row, vector);
      float y[kColumns] = {};
      if (row.live && (pass == 0 || !p.keeps)) columns.compute(y);
      if (pass == 0) {
#pragma unroll
        for (int k = 0; k < kColumns; ++k) largest = larger_magnitude(largest, y[k]);
      }
      if (p.keeps) {
#pragma unroll
        for (int word = 0; word < C::kWords; ++word) {
          uint4& place = kept[word * p.vectors + vector];
          float* const of = y + 4 * word;
          if (pass == 0) {
            place = make_uint4(bits_of(of[0]), bits_of(of[1]), bits_of(of[2]), bits_of(of[3]));
          } else if (row.live) {
            const uint4 bits = place;
            of[0] = float_of(bits.x);
            of[1] = float_of(bits.y);
            of[2] = float_of(bits.z);
            of[3] = float_of(bits.w);
          }
        }
      }
      if (pass == 1) {
        uint32_t words[C::kWords] = {};
        if (row.live) {
          divide_columns(p.format, p.power, divisor, y);
          to_codes(p.format, y, words);
        }
        columns.store(words);
      }
    }
    if (pass == 1) break;
    largest = largest_of_row(largest);
    divisor = divisor_of(p, largest, scale);
    if (threadIdx.x == 0 && row.exists) store_scale(p, row, 0, row.live, scale.bits);
  }
}

}  // namespace fused_acts::cuda
