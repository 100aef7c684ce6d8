// Matrices in runs of neighbouring elements.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fused_acts::cpu {

// Calls visitor(row, col, n) for the runs, each in one row, that make up elements [begin, end) of
// the flat index row * cols + col.
template <class Visitor>
void for_each_run(int64_t cols, int64_t begin, int64_t end, Visitor&& visitor) {
  int64_t row = begin / cols, col = begin % cols;
  while (begin < end) {
    const int64_t n = std::min(cols - col, end - begin);
    visitor(row, col, n);
    begin += n;
    col += n;
    if (col == cols) {
      col = 0;
      ++row;
    }
  }
}

}  // namespace fused_acts::cpu
