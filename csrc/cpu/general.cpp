// Calls with options, tile by tile: every operand through a buffer in the type of the arithmetic.
#include <algorithm>
#include <type_traits>

#include "convert.h"
#include "dense.h"
#include "general_loops.h"

namespace fused_acts::cpu {
namespace {

constexpr int64_t kTile = 512;  // columns; all buffers of a tile stay in the nearest caches
constexpr int64_t kRows = 32;   // of a tile, where no sums ask for more

int64_t column_tiles(const GluArgs& args) { return (args.cols + kTile - 1) / kTile; }
int64_t rows_per_tile(const GluArgs& args) { return args.chunks ? args.rows_per_chunk() : kRows; }

template <class T, class Real>
void load(const T* source, Real* target, int64_t n) {
  if constexpr (std::is_same_v<T, Real>) {
    std::copy_n(source, n, target);
  } else {
    to_float(source, target, n);
  }
}
template <class T, class Real>
void store(const Real* source, T* target, int64_t n) {
  if constexpr (std::is_same_v<T, Real>) {
    std::copy_n(source, n, target);
  } else {
    from_float(source, target, n);
  }
}

// The columns of an operand within a tile, and a buffer that they go through.
template <class T, class Real>
class Columns {
 public:
  Columns(const Operand& operand, int64_t step, int64_t first, int64_t n, bool zero)
      : data_(static_cast<T*>(operand.data)), row_stride_(operand.row_stride), step_(step), n_(n) {
    if (data_) {
      data_ += first * step;
    } else if (zero) {
      std::fill_n(buffer_, n, Real(0));
    }
  }

  Real* buffer() { return buffer_; }
  const Real* read(int64_t row) {
    if (!data_) return buffer_;
    const T* source = data_ + row * row_stride_;
    if (step_ != 1) {
      for (int64_t i = 0; i < n_; ++i) stored_[i] = source[i * step_];
      source = stored_;
    } else if constexpr (std::is_same_v<T, Real>) {
      return source;
    }
    load(source, buffer_, n_);
    return buffer_;
  }
  void write(int64_t row) {
    if (!data_) return;
    T* target = data_ + row * row_stride_;
    store(buffer_, step_ == 1 ? target : stored_, n_);
    for (int64_t i = 0; step_ != 1 && i < n_; ++i) target[i * step_] = stored_[i];
  }

 private:
  T* data_;
  const int64_t row_stride_, step_, n_;
  alignas(64) Real buffer_[kTile];
  alignas(64) T stored_[kTile];
};

// The columns of a row that all rows share, or one value in its place.
template <class T, class Real>
void read_row(const Row& row, Real otherwise, int64_t first, int64_t n, Real* target) {
  if (!row.data) {
    std::fill_n(target, n, otherwise);
  } else if (row.wide) {
    const Real* source = static_cast<const Real*>(row.data) + first * row.step;
    for (int64_t i = 0; i < n; ++i) target[i] = source[i * row.step];
  } else {
    const T* source = static_cast<const T*>(row.data) + first * row.step;
    for (int64_t i = 0; i < n; ++i) load(source + i * row.step, target + i, 1);
  }
}

// Adds up the rows of a buffer, if that is wanted.
template <class Real>
class ColumnSum {
 public:
  ColumnSum(void* sums, int64_t first) : sums_(static_cast<Real*>(sums)) {
    if (sums_) sums_ += first;
  }
  void clear(int64_t n) {
    if (sums_) std::fill_n(sums_, n, Real(0));
  }
  void add(const Real* buffer, int64_t n) {
    for (int64_t i = 0; sums_ && i < n; ++i) sums_[i] += buffer[i];
  }

 private:
  Real* sums_;
};

template <class T>
void run_tile(Direction direction, const GluArgs& args, int64_t tile_index) {
  using M = typename MathFor<T>::type;
  using Real = typename M::Real;
  const int64_t part = tile_index / column_tiles(args);
  const int64_t first = tile_index % column_tiles(args) * kTile;
  const int64_t n = std::min(kTile, args.cols - first);
  const int64_t begin = part * rows_per_tile(args);
  const int64_t end = std::min(args.rows, begin + rows_per_tile(args));

  alignas(64) Real gate_bias[kTile], up_bias[kTile], parameter[kTile], grad_parameter[kTile];
  // adding -0 changes nothing, not even the sign of 0
  read_row<T>(args.gate_bias, Real(-0.0), first, n, gate_bias);
  read_row<T>(args.up_bias, Real(-0.0), first, n, up_bias);
  read_row<T>(args.parameter, static_cast<Real>(args.scalar), first, n, parameter);

  const auto columns = [&](const Operand& operand, int step) {
    return Columns<T, Real>(operand, step, first, n, direction == Direction::kSecond);
  };
  auto gate = columns(args.gate, args.step), up = columns(args.up, args.step);
  auto gate_tangent = columns(args.gate_tangent, args.step);
  auto up_tangent = columns(args.up_tangent, args.step);
  auto grad_out = columns(args.grad_out, 1), out = columns(args.out, 1);
  auto grad_gate = columns(args.grad_gate, args.step), grad_up = columns(args.grad_up, args.step);

  const int64_t sums_at = part * args.cols + first;
  ColumnSum<Real> gate_sum(args.sums.gate, sums_at), up_sum(args.sums.up, sums_at);
  ColumnSum<Real> parameter_sum(args.sums.parameter, sums_at);
  for (ColumnSum<Real>* sum : {&gate_sum, &up_sum, &parameter_sum}) sum->clear(n);

  const auto loop = find_tile_loop<M>(direction, args.variant);
  for (int64_t row = begin; row < end; ++row) {
    loop({n, static_cast<Real>(args.limit), gate_bias, up_bias, parameter, gate.read(row),
          up.read(row), grad_out.read(row), gate_tangent.read(row), up_tangent.read(row),
          out.buffer(), grad_gate.buffer(), grad_up.buffer(), grad_parameter});
    out.write(row);
    grad_gate.write(row);
    grad_up.write(row);
    gate_sum.add(grad_gate.buffer(), n);
    up_sum.add(grad_up.buffer(), n);
    parameter_sum.add(grad_parameter, n);
  }
}

template <class Real>
void add_chunks_of(const SumArgs& args) {
  const Real* partial = static_cast<const Real*>(args.partial);
  Real* sums = static_cast<Real*>(args.sums);
  std::fill_n(sums, args.kinds * args.cols, Real(0));
  for (int64_t kind = 0; kind < args.kinds; ++kind, sums += args.cols)
    for (int64_t chunk = 0; chunk < args.chunks; ++chunk, partial += args.cols)
      for (int64_t i = 0; i < args.cols; ++i) sums[i] += partial[i];
  sums -= args.cols;
  for (int64_t i = 1; args.total && i < args.cols; ++i) sums[0] += sums[i];
}

}  // namespace

int64_t tile_count(const GluArgs& args) {
  const int64_t rows = rows_per_tile(args);
  return (args.rows + rows - 1) / rows * column_tiles(args);
}

void glu_general(Direction direction, const GluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    for (int64_t i = begin; i < end; ++i) run_tile<decltype(t)>(direction, args, i);
  });
}

void add_chunks(const SumArgs& args) {
  args.is_double ? add_chunks_of<double>(args) : add_chunks_of<float>(args);
}

}  // namespace fused_acts::cpu
