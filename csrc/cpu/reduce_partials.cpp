// Sums over rows, or columns, from partial ones.
#include <algorithm>

#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// In double: a float would lose digits over many parts and over long rows.
template <class T>
void reduce(const RowSum& sum, const Segments& segments, const Loops& loops) {
  using Real = typename MathFor<T>::type::Real;
  const auto write = [&](int64_t first, const Real* values, int64_t n) {
    if (sum.in_real) {
      std::copy_n(values, n, static_cast<Real*>(sum.data) + first);
    } else {
      loops.narrow(values, static_cast<T*>(sum.data) + first, n);
    }
  };
  double tile[kTile], total = 0;
  Real values[kTile];
  const int64_t experts = sum.by_expert ? segments.experts.count : 1;
  for (int64_t expert = 0; expert < experts; ++expert) {
    const Parts parts = sum.by_expert ? segments.parts_of(expert) : Parts{0, sum.parts, -1};
    for (int64_t first = 0; first < sum.cols; first += kTile) {
      const int64_t n = std::min(kTile, sum.cols - first);
      const auto add = [&](int64_t part) {
        const Real* partials =
            static_cast<const Real*>(sum.partials.data) + part * sum.partials.row_stride + first;
        for (int64_t i = 0; i < n; ++i) tile[i] += partials[i];
      };
      std::fill_n(tile, n, 0.0);
      for (int64_t part = parts.begin; part < parts.end; ++part) add(part);
      if (parts.more >= 0) add(parts.more);
      for (int64_t i = 0; i < n; ++i) {
        total += tile[i];
        values[i] = static_cast<Real>(tile[i]);
      }
      if (!sum.total) write(expert * sum.cols + first, values, n);
    }
  }
  values[0] = static_cast<Real>(total);
  if (sum.total) write(0, values, 1);
}

}  // namespace

void reduce_partials(const ReduceArgs& args) {
  visit_dtype(args.dtype, [&](auto t) {
    for (int i = 0; i < args.count; ++i)
      reduce<decltype(t)>(args.sums[i], args.segments, loops_for(args.dtype));
  });
}

}  // namespace fused_acts::cpu
