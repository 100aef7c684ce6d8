// Tiles of gate and up in the type of the arithmetic, for results that are not rounded to theirs.
#pragma once

#include <algorithm>
#include <memory>

#include "cpu/loops.h"

namespace fused_acts::cpu {

// Gate and up of some rows and at most kTile columns, in float32.
class WidenedTile {
 public:
  WidenedTile(const GluArgs& from, int64_t rows)
      : from_(from),
        loops_(loops_for(from.dtype)),
        gate_(new float[rows * kTile]),
        up_(new float[rows * kTile]) {}

  // Points `to` at the rows and columns.
  void read(int64_t row, int64_t rows, int64_t first, int64_t n, GluArgs* to) {
    for (int64_t i = 0; i < rows; ++i) {
      read(from_.gate, row + i, first, n, gate_.get() + i * kTile);
      if (from_.up.data) read(from_.up, row + i, first, n, up_.get() + i * kTile);
    }
    to->gate = origin_of(gate_.get(), row, first);
    if (from_.up.data) to->up = origin_of(up_.get(), row, first);
  }

  static Matrix origin_of(float* data, int64_t row, int64_t first) {
    return {data - (row * kTile + first), kTile};
  }

 private:
  void read(const Matrix& matrix, int64_t row, int64_t first, int64_t n, float* target) {
    const auto* source = static_cast<const uint16_t*>(matrix.data) + row * matrix.row_stride;
    if (from_.block) {
      for (int64_t i = first, count; i < first + n; i += count) {
        count = std::min(first + n - i, from_.block - i % from_.block);
        loops_.widen(source + i + i / from_.block * from_.block, target + (i - first), count);
      }
    } else if (from_.step == 2) {
      // the last one has no other behind it in the tensor
      loops_.widen(source + 2 * first, pairs_, 2 * n - 1);
      for (int64_t i = 0; i < n; ++i) target[i] = pairs_[2 * i];
    } else {
      loops_.widen(source + first, target, n);
    }
  }

  const GluArgs& from_;
  const Loops& loops_;
  const std::unique_ptr<float[]> gate_, up_;
  float pairs_[2 * kTile];
};

}  // namespace fused_acts::cpu
