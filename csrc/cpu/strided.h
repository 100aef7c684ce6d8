// Matrices read and written in runs of neighbouring elements.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/loops.h"

namespace fused_acts::cpu {

// Calls visitor(row, col, n) for the runs, each in one row and at most `longest` elements, that
// make up elements [begin, end) of the flat index row * cols + col.
template <class Visitor>
void for_each_run(int64_t cols, int64_t longest, int64_t begin, int64_t end, Visitor&& visitor) {
  int64_t row = begin / cols, col = begin % cols;
  while (begin < end) {
    const int64_t n = std::min({longest, cols - col, end - begin});
    visitor(row, col, n);
    begin += n;
    col += n;
    if (col == cols) {
      col = 0;
      ++row;
    }
  }
}

// An operand that is read in runs, through a tile where it is interleaved; an absent one
// holds zeros.
template <class T>
class StridedReader {
 public:
  StridedReader(const Matrix& operand, int64_t step) : operand_(operand), step_(step) {}

  const T* operator()(int64_t row, int64_t col, int64_t n) {
    if (operand_.data == nullptr) return zeros();
    const T* source =
        static_cast<const T*>(operand_.data) + row * operand_.row_stride + col * step_;
    if (step_ == 1) return source;
    for (int64_t i = 0; i < n; ++i) tile_[i] = source[i * step_];
    return tile_;
  }

 private:
  const T* zeros() {
    if (!zeroed_) std::memset(tile_, 0, sizeof tile_);
    zeroed_ = true;
    return tile_;
  }

  const Matrix& operand_;
  const int64_t step_;
  bool zeroed_ = false;
  alignas(64) T tile_[kTile];
};

// An operand that is written in runs, through a tile where it is interleaved or not wanted at all.
template <class T>
class StridedWriter {
 public:
  StridedWriter(const Matrix& operand, int64_t step) : operand_(operand), step_(step) {}

  bool needs_tile() const { return operand_.data == nullptr || step_ != 1; }

  // Where to compute a run, and what then puts it into place.
  T* begin(int64_t row, int64_t col) {
    target_ = static_cast<T*>(operand_.data) + row * operand_.row_stride + col * step_;
    return needs_tile() ? tile_ : target_;
  }
  void end(int64_t n) {
    if (operand_.data == nullptr || step_ == 1) return;
    for (int64_t i = 0; i < n; ++i) target_[i * step_] = tile_[i];
  }

 private:
  const Matrix& operand_;
  const int64_t step_;
  T* target_ = nullptr;
  alignas(64) T tile_[kTile];
};

}  // namespace fused_acts::cpu
