// Tiles: short runs of columns that stay in the first-level cache while they are read, computed and written.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../glu.h"
#include "clones.h"
#include "convert.h"

namespace fused_acts::cpu {

constexpr int64_t kTile = 512;  // elements

// Calls visitor(T{}) with the storage type of a dtype.
template <class Visitor>
void visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::kFloat64:
      return visitor(double{});
    case DType::kFloat32:
      return visitor(float{});
    case DType::kFloat16:
      return visitor(Float16{});
    case DType::kBFloat16:
      return visitor(BFloat16{});
  }
}

// Calls visitor(row, col, n) for the tiles that make up elements [begin, end) of a [rows, cols] matrix.
template <class Visitor>
void for_each_tile(int64_t cols, int64_t begin, int64_t end, Visitor&& visitor) {
  int64_t row = begin / cols, col = begin % cols;
  while (begin < end) {
    int64_t n = cols - col < end - begin ? cols - col : end - begin;
    n = n < kTile ? n : kTile;
    visitor(row, col, n);
    begin += n;
    col += n;
    if (col == cols) {
      col = 0;
      ++row;
    }
  }
}

template <class T>
T* at(const Operand& operand, int64_t row, int64_t col) {
  return static_cast<T*>(operand.data) + row * operand.row_stride + col;
}

template <class T>
void gather(const T* source, int64_t step, T* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = source[i * step];
}

template <class T>
void scatter(const T* source, T* target, int64_t step, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i * step] = source[i];
}

// A tile of arithmetic values, backed by the operand's own memory where that holds them densely.
template <class T, class Real = typename MathFor<T>::type::Real>
class Tile {
 public:
  // source: [n], `step` elements apart
  const Real* load(const T* source, int64_t step, int64_t n) {
    if (step != 1) {
      gather(source, step, stored_, n);
      source = stored_;
    }
    if constexpr (std::is_same_v<T, Real>) {
      return source;
    } else {
      to_float(source, values_, n);
      return values_;
    }
  }

  // Where to compute the values that store() then puts into target: [n], `step` elements apart.
  Real* place(T* target, int64_t step) {
    if constexpr (std::is_same_v<T, Real>) {
      return target != nullptr && step == 1 ? target : stored_;
    } else {
      return values_;
    }
  }
  void store(T* target, int64_t step, int64_t n) {
    if (target == nullptr) return;
    if constexpr (!std::is_same_v<T, Real>) from_float(values_, step == 1 ? target : stored_, n);
    if (step != 1) scatter(stored_, target, step, n);
  }

 private:
  struct Nothing {};
  alignas(64) T stored_[kTile];
  alignas(64) std::conditional_t<std::is_same_v<T, Real>, Nothing, Real[kTile]> values_;
};

}  // namespace fused_acts::cpu
