// The columns that a thread of a quantised result computes: read, through the unit, and written.
#pragma once

#include "cuda/plan.h"
#include "cuda/quantized_params.cuh"
#include "math/unit.h"

namespace fused_acts::cuda {

// The neighbours that a thread computes.
template <class C>
struct QuantizedColumns {
  using T = typename C::T;
  static constexpr int kColumns = C::kColumns;
  const QuantizedParams& p;
  const QuantizedRow& row;
  uint32_t vector, column;

  FUSED_ACTS_DEVICE QuantizedColumns(const QuantizedParams& p, const QuantizedRow& row,
                                     uint32_t vector)
      : p(p), row(row), vector(vector), column(vector * kColumns) {}

  // One by one: calls visitor(k, where column k is in gate and up) for those that there are.
  template <class Visitor>
  FUSED_ACTS_DEVICE void for_each(Visitor visitor) const {
    const int64_t first = column;
    int64_t turn = p.block ? first / p.block : 0, in_block = first - turn * p.block;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (column + k < p.cols) visitor(k, (first + k + turn * p.block) * p.step);
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
      constexpr int kBytes = 16 * C::kVectors;
      read_whole(gate + packed * kBytes, x.gate_vector);
      if (p.up.data) read_whole((pairs ? gate + kBytes : up) + packed * kBytes, x.up_vector);
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
    if (p.whole) {
      halves ? store_whole<kColumns / 2>(words, to) : store_whole<kColumns>(words, to);
    } else {
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        if (column + (halves ? 2 * k : k) < p.cols && (!halves || 2 * k < kColumns))
          to[k] = static_cast<char>(words[k / 4] >> k % 4 * 8);
      }
    }
  }

 private:
  static FUSED_ACTS_DEVICE void read_whole(const char* from, Vector<T, kColumns>& to) {
#pragma unroll
    for (int i = 0; i < C::kVectors; ++i) {
      Vector<T, kColumns / C::kVectors> part;
      load_cached(from + 16 * i, part);
#pragma unroll
      for (int word = 0; word < 4; ++word) to.words[4 * i + word] = part.words[word];
    }
  }
  template <int kBytes>
  static FUSED_ACTS_DEVICE void store_whole(const uint32_t (&words)[C::kWords], char* to) {
    Vector<uint8_t, kBytes> bytes;
#pragma unroll
    for (int word = 0; word < (kBytes + 3) / 4; ++word) bytes.words[word] = words[word];
    cuda::store(bytes, to);
  }

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

}  // namespace fused_acts::cuda
