// What columns have for all rows, or for those of an expert: biases and parameters, in the type of
// the arithmetic.
#pragma once

#include <algorithm>

#include "cpu/loops.h"

namespace fused_acts::cpu {

// T is the storage type.
template <class T>
class ColumnValues {
 public:
  using Real = typename MathFor<T>::type::Real;

  ColumnValues(const GluArgs& args, const Loops& loops) : args_(args), loops_(loops) {}

  // Whether columns, or experts, have values of their own.
  bool differ() const {
    return args_.gate_bias.data || args_.up_bias.data || args_.parameters[0].col_stride ||
           args_.parameters[1].col_stride || args_.experts.count;
  }

  // A parameter that is one value for all columns.
  double scalar(int i) const {
    const RowVector& parameter = args_.parameters[i];
    if (!parameter.data || parameter.col_stride) return args_.scalars[i];
    return number_at(parameter.data, parameter.in_real, 0);
  }

  // One of many numbers.
  Real number_at(const void* data, bool in_real, int64_t i) const {
    if (in_real) return static_cast<const Real*>(data)[i];
    Real real;
    loops_.widen(static_cast<const T*>(data) + i, &real, 1);
    return real;
  }

  // n columns from `first` on.
  void read(int64_t first, int64_t n, int64_t expert) {
    // adding -0 changes nothing, not even the sign of 0
    read(args_.gate_bias, -0.0, first, n, expert, gate_bias);
    read(args_.up_bias, -0.0, first, n, expert, up_bias);
    for (int i = 0; i < 2; ++i) {
      const RowVector& parameter = args_.parameters[i];
      const bool is_one = !parameter.col_stride && !parameter.expert_stride;
      read(is_one ? RowVector{} : parameter, scalar(i), first, n, expert, parameters[i]);
    }
  }

  alignas(64) Real gate_bias[kTile], up_bias[kTile], parameters[2][kTile];

 private:
  void read(const RowVector& row, double otherwise, int64_t first, int64_t n, int64_t expert,
            Real* target) const {
    const int64_t begin = expert * row.expert_stride + first * row.col_stride;
    if (!row.data) {
      std::fill_n(target, n, static_cast<Real>(otherwise));
    } else if (row.in_real) {
      gather(static_cast<const Real*>(row.data) + begin, row.col_stride, n, target);
    } else {
      const T* source = static_cast<const T*>(row.data) + begin;
      T dense[kTile];
      if (row.col_stride != 1) gather(source, row.col_stride, n, dense);
      loops_.widen(row.col_stride == 1 ? source : dense, target, n);
    }
  }
  template <class Element>
  static void gather(const Element* source, int64_t stride, int64_t n, Element* target) {
    for (int64_t i = 0; i < n; ++i) target[i] = source[i * stride];
  }

  const GluArgs& args_;
  const Loops& loops_;
};

}  // namespace fused_acts::cpu
