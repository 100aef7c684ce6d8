// The loops of softmax_glu: a row at a time, which stays in the caches between its passes.
#include "kernels/softmax_glu.h"

#include <algorithm>
#include <vector>

#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// Sums are added in so many columns of their own and then in double, which leaves little to round
// in rows of any length, in the same order everywhere.
constexpr int kAccumulators = 32;

template <class M, class Real = typename M::Real>
FUSED_ACTS_INLINE Real exponential(Real z) {
  return M::exponential(z).exp;
}

template <class Real>
FUSED_ACTS_WIDE_CLONES Real largest_of(const Real* x, Real largest, int64_t n) {
  Real most[kAccumulators];
  std::fill_n(most, kAccumulators, largest);
  int64_t i = 0;
  for (; i + kAccumulators <= n; i += kAccumulators)
#pragma omp simd
    for (int k = 0; k < kAccumulators; ++k) most[k] = x[i + k] > most[k] ? x[i + k] : most[k];
  for (; i < n; ++i) most[0] = x[i] > most[0] ? x[i] : most[0];
  return *std::max_element(most, most + kAccumulators);
}

template <class Real>
FUSED_ACTS_WIDE_CLONES double sum_of(const Real* x, int64_t n) {
  Real sums[kAccumulators] = {};
  int64_t i = 0;
  for (; i + kAccumulators <= n; i += kAccumulators)
#pragma omp simd
    for (int k = 0; k < kAccumulators; ++k) sums[k] += x[i + k];
  for (int k = 0; i < n; ++i, ++k) sums[k] += x[i];
  double sum = 0;
  for (const Real part : sums) sum += part;
  return sum;
}

template <class M, class Real = typename M::Real>
FUSED_ACTS_WIDE_CLONES void exponentials(const Real* x, Real largest, Real* target, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) target[i] = exponential<M>(largest - x[i]);
}

template <class Real>
FUSED_ACTS_WIDE_CLONES void multiply(const Real* exponential, Real scale, const Real* up, Real* out,
                                     int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = exponential[i] * (scale * up[i]);
}

// `product` is grad_out * up, `weighted` that times p.
template <class M, class Real = typename M::Real>
FUSED_ACTS_WIDE_CLONES void weigh(const Real* grad_out, const Real* gate, const Real* up,
                                  Real largest, Real scale, Real* p, Real* product, Real* grad_up,
                                  Real* weighted, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const Real weight = exponential<M>(largest - gate[i]) * scale;
    const Real seed = grad_out[i] * up[i];
    grad_up[i] = weight * grad_out[i];
    p[i] = weight;
    product[i] = seed;
    weighted[i] = weight * seed;
  }
}

template <class Real>
FUSED_ACTS_WIDE_CLONES void subtract(const Real* p, const Real* product, Real sum, Real* grad_gate,
                                     int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) grad_gate[i] = p[i] * (product[i] - sum);
}

template <class T>
class Rows {
 public:
  explicit Rows(const SoftmaxGluArgs& args)
      : args_(args),
        first_(args.cols),
        second_(args.cols),
        largest_((args.cols + kTile - 1) / kTile) {}

  void forward(int64_t row) {
    const T *gate = at(args_.gate, row), *up = at(args_.up, row);
    T* out = at(args_.out, row);
    Real largest = kLowest<Real>;
    double sum = 0;
    for_each_tile([&](int64_t i, int64_t n) {
      const Real* x = read(gate + i, 0, n);
      const Real before = largest;
      largest = largest_[i / kTile] = largest_of(x, before, n);
      exponentials<M>(x, largest, first_.data() + i, n);
      sum = sum * exponential<M>(largest - before) + sum_of(first_.data() + i, n);
    });
    const Real scale = static_cast<Real>(1.0 / sum);
    for_each_tile([&](int64_t i, int64_t n) {
      const Real factor = scale * exponential<M>(largest - largest_[i / kTile]);
      multiply(first_.data() + i, factor, read(up + i, 0, n), write(out + i, 0), n);
      finish(out + i, 0, n);
    });
    stats(row)[0] = largest;
    stats(row)[1] = scale;
  }

  void backward(int64_t row) {
    const T *gate = at(args_.gate, row), *up = at(args_.up, row);
    const T* grad_out = at(args_.grad_out, row);
    T* grad_up = args_.grad_up.data ? at(args_.grad_up, row) : nullptr;
    T* grad_gate = args_.grad_gate.data ? at(args_.grad_gate, row) : nullptr;
    double sum = 0;
    for_each_tile([&](int64_t i, int64_t n) {
      Real* to = grad_up ? write(grad_up + i, 3) : tiles_[3];
      weigh<M>(read(grad_out + i, 0, n), read(gate + i, 1, n), read(up + i, 2, n), stats(row)[0],
               stats(row)[1], first_.data() + i, second_.data() + i, to, tiles_[4], n);
      if (grad_up) finish(grad_up + i, 3, n);
      sum += sum_of(tiles_[4], n);
    });
    if (!grad_gate) return;
    for_each_tile([&](int64_t i, int64_t n) {
      subtract(first_.data() + i, second_.data() + i, static_cast<Real>(sum),
               write(grad_gate + i, 0), n);
      finish(grad_gate + i, 0, n);
    });
  }

 private:
  using M = typename MathFor<T>::type;
  using Real = typename M::Real;
  static constexpr bool kConverts = !std::is_same_v<T, Real>;

  template <class Visitor>
  void for_each_tile(Visitor&& visitor) {
    for (int64_t i = 0; i < args_.cols; i += kTile) visitor(i, std::min(kTile, args_.cols - i));
  }
  T* at(const Matrix& operand, int64_t row) {
    return static_cast<T*>(operand.data) + row * operand.row_stride;
  }
  Real* stats(int64_t row) { return static_cast<Real*>(args_.stats) + 2 * row; }

  // Operands in the type of the arithmetic: themselves, or through one of the tiles.
  const Real* read(const T* source, int tile, int64_t n) {
    if constexpr (kConverts) {
      to_float(source, tiles_[tile], n);
      return tiles_[tile];
    } else {
      return source;
    }
  }
  Real* write([[maybe_unused]] T* target, int tile) {
    if constexpr (kConverts) {
      return tiles_[tile];
    } else {
      return target;
    }
  }
  void finish([[maybe_unused]] T* target, [[maybe_unused]] int tile, [[maybe_unused]] int64_t n) {
    if constexpr (kConverts) from_float(tiles_[tile], target, n);
  }

  const SoftmaxGluArgs& args_;
  std::vector<Real> first_, second_;  // a row each
  std::vector<Real> largest_;         // up to each tile: what its exponentials are relative to
  alignas(64) Real tiles_[5][kTile];
};

}  // namespace

void softmax_glu_forward(const SoftmaxGluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    Rows<decltype(t)> rows(args);
    for (int64_t row = begin; row < end; ++row) rows.forward(row);
  });
}

void softmax_glu_backward(const SoftmaxGluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    Rows<decltype(t)> rows(args);
    for (int64_t row = begin; row < end; ++row) rows.backward(row);
  });
}

}  // namespace fused_acts::cpu
