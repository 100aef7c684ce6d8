// From a range of a call to runs of neighbouring elements and the loops for them.
#include <algorithm>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/isa.h"
#include "cpu/loops.h"
#include "cpu/strided.h"

namespace fused_acts::cpu {
namespace {

bool uses_avx512(DType dtype) { return isa() >= Isa::kAvx512 && dtype != DType::kFloat64; }

FlatLoops find_flat_loops(const GluArgs& args) {
#ifdef FUSED_ACTS_HAS_AVX512
  if (uses_avx512(args.dtype))
    return avx512_flat_loops(args.variant, args.dtype, isa() == Isa::kAvx512Bf16);
#endif
  return portable_flat_loops(args.variant, args.dtype);
}

template <class T>
RowLoop find_row_loop(Direction direction, const GluArgs& args) {
#ifdef FUSED_ACTS_HAS_AVX512
  if (uses_avx512(args.dtype)) return avx512_row_loop(direction, args.variant, args.dtype);
#endif
  return portable_row_loop<T>(direction, args.variant);
}

// Whether a call should write past the caches. From about the size of a last-level cache, or of a
// few cores' share in that of a server, its outputs would push each other out.
bool exceeds_caches(const GluArgs& args, int64_t matrices) {
  return matrices * args.rows * args.cols * dtype_size(args.dtype) > int64_t{32} << 20;
}

// Columns of a run: of a whole row where no operand goes through a tile.
int64_t longest_run(const GluArgs& args, bool tiles) { return tiles ? kTile : args.cols; }

constexpr int64_t kRows = 32;  // of a tile, where no sums ask for more

int64_t column_tiles(const GluArgs& args) { return (args.cols + kTile - 1) / kTile; }
int64_t rows_per_tile(const GluArgs& args) {
  return args.row_blocks ? args.rows_per_block() : kRows;
}

// n columns of a row vector in the type of the arithmetic, or one value in its place.
template <class T, class Real>
void read_row_vector(const RowVector& row, Real otherwise, int64_t first, int64_t n, Real* target) {
  if (!row.data) {
    std::fill_n(target, n, otherwise);
  } else if (row.in_real || std::is_same_v<T, Real>) {
    const Real* source = static_cast<const Real*>(row.data) + first * row.col_stride;
    for (int64_t i = 0; i < n; ++i) target[i] = source[i * row.col_stride];
  } else if constexpr (!std::is_same_v<T, Real>) {
    const T* source = static_cast<const T*>(row.data) + first * row.col_stride;
    T dense[kTile];
    for (int64_t i = 0; i < n; ++i) dense[i] = source[i * row.col_stride];
    to_float(dense, target, n);
  }
}

// The tiles, some columns of some rows each, of a call with any options.
template <class T>
class RowCall {
 public:
  RowCall(Direction direction, const GluArgs& args)
      : args_(args),
        loop_(find_row_loop<T>(direction, args)),
        out_(args.product ? args.grad_out : args.out),
        gate_(args.gate, args.step),
        up_(args.up, args.step),
        grad_out_(args.grad_out, 1),
        gate_tangent_(args.gate_tangent, args.step),
        up_tangent_(args.up_tangent, args.step),
        grad_gate_(args.grad_gate, args.step),
        grad_up_(args.grad_up, args.step) {
    if (!args.has_row_operands()) read_row_vectors(0, kTile);
  }

  void run(int64_t tile) {
    const int64_t part = tile / column_tiles(args_), first = tile % column_tiles(args_) * kTile;
    const int64_t n = std::min(kTile, args_.cols - first);
    const int64_t begin = part * rows_per_tile(args_);
    const int64_t end = std::min(args_.rows, begin + rows_per_tile(args_));
    if (args_.has_row_operands()) read_row_vectors(first, n);

    const auto sum = [&](void* sums) -> void* {
      if (!sums) return nullptr;
      Real* columns = static_cast<Real*>(sums) + part * args_.cols + first;
      std::fill_n(columns, n, Real(0));
      return columns;
    };
    void *gate_sum = sum(args_.sums.gate), *up_sum = sum(args_.sums.up);
    void* parameter_sum = sum(args_.sums.parameter);
    const auto wanted = [](const Matrix& matrix, void* run) { return matrix.data ? run : nullptr; };
    for (int64_t row = begin; row < end; ++row) {
      void* out = static_cast<T*>(out_.data) + row * out_.row_stride + first;
      loop_({n, args_.limit, gate_bias_, up_bias_, parameter_, gate_(row, first, n),
             up_(row, first, n), grad_out_(row, first, n), gate_tangent_(row, first, n),
             up_tangent_(row, first, n), wanted(out_, out),
             wanted(args_.grad_gate, grad_gate_.begin(row, first)),
             wanted(args_.grad_up, grad_up_.begin(row, first)), gate_sum, up_sum, parameter_sum});
      grad_gate_.end(n);
      grad_up_.end(n);
    }
  }

 private:
  using Real = typename MathFor<T>::type::Real;

  void read_row_vectors(int64_t first, int64_t n) {
    // adding -0 changes nothing, not even the sign of 0
    read_row_vector<T>(args_.gate_bias, Real(-0.0), first, n, gate_bias_);
    read_row_vector<T>(args_.up_bias, Real(-0.0), first, n, up_bias_);
    read_row_vector<T>(args_.parameter, static_cast<Real>(args_.scalar), first, n, parameter_);
  }

  const GluArgs& args_;
  const RowLoop loop_;
  const Matrix out_;
  StridedReader<T> gate_, up_, grad_out_, gate_tangent_, up_tangent_;
  StridedWriter<T> grad_gate_, grad_up_;
  alignas(64) Real gate_bias_[kTile], up_bias_[kTile], parameter_[kTile];
};

template <class Real>
void reduce(const ReduceArgs& args) {
  const Real* partials = static_cast<const Real*>(args.partials);
  Real* sums = static_cast<Real*>(args.sums);
  std::fill_n(sums, args.count * args.cols, Real(0));
  for (int64_t n = 0; n < args.count; ++n, sums += args.cols)
    for (int64_t block = 0; block < args.row_blocks; ++block, partials += args.cols)
      for (int64_t i = 0; i < args.cols; ++i) sums[i] += partials[i];
  if (!args.total || args.cols == 0) return;
  sums -= args.cols;
  double total = 0;  // a float would lose digits over long rows
  for (int64_t i = 0; i < args.cols; ++i) total += sums[i];
  sums[0] = static_cast<Real>(total);
}

}  // namespace

bool has_flat_loops(const GluArgs& args) {
  return !args.has_options() && has_flat_kernels(args.variant) &&
         (!is_unary(args.variant) || uses_avx512(args.dtype));
}

void glu_forward(const GluArgs& args, int64_t begin, int64_t end) {
  const FlatLoops loops = find_flat_loops(args);
  const bool tiles = args.step != 1;
  const bool non_temporal = !tiles && exceeds_caches(args, is_unary(args.variant) ? 2 : 3);
  visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    StridedReader<T> gate(args.gate, args.step), up(args.up, args.step);
    const int64_t longest = longest_run(args, tiles);
    for_each_run(args.cols, longest, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride + col;
      loops.forward(gate(row, col, n), up(row, col, n), out, n, non_temporal);
    });
  });
}

void glu_backward(const GluArgs& args, int64_t begin, int64_t end) {
  const FlatLoops loops = find_flat_loops(args);
  visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    StridedReader<T> grad_out(args.grad_out, 1);
    StridedReader<T> gate(args.gate, args.step), up(args.up, args.step);
    StridedWriter<T> grad_gate(args.grad_gate, args.step), grad_up(args.grad_up, args.step);
    const bool unary = is_unary(args.variant);
    const bool tiles = grad_gate.needs_tile() || (!unary && grad_up.needs_tile());
    const bool non_temporal = !tiles && exceeds_caches(args, unary ? 3 : args.product ? 6 : 5);
    const int64_t longest = longest_run(args, tiles);
    for_each_run(args.cols, longest, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* product = static_cast<T*>(args.grad_out.data) + row * args.grad_out.row_stride + col;
      loops.backward(grad_out(row, col, n), gate(row, col, n), up(row, col, n),
                     grad_gate.begin(row, col), grad_up.begin(row, col),
                     args.product ? product : nullptr, n, non_temporal);
      grad_gate.end(n);
      grad_up.end(n);
    });
  });
}

int64_t tile_count(const GluArgs& args) {
  const int64_t rows = rows_per_tile(args);
  return (args.rows + rows - 1) / rows * column_tiles(args);
}

void glu_rows(Direction direction, const GluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    RowCall<decltype(t)> call(direction, args);
    for (int64_t i = begin; i < end; ++i) call.run(i);
  });
}

void reduce_partials(const ReduceArgs& args) {
  args.is_double ? reduce<double>(args) : reduce<float>(args);
}

}  // namespace fused_acts::cpu
