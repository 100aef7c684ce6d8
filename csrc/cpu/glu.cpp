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

// Whether the loops take an interleaved operand as it is. Those of float16 with options go through
// tiles anyhow.
bool reads_pairs(const GluArgs& args, bool rows) {
  return args.step == 2 && uses_avx512(args.dtype) && !(rows && args.dtype == DType::kFloat16);
}

// Whether a call should write past the caches. From about the size of a last-level cache, or of a
// few cores' share in that of a server, its outputs would push each other out; but a run has to be
// worth the fence behind it.
bool exceeds_caches(const GluArgs& args, int64_t matrices) {
  return args.cols * dtype_size(args.dtype) >= 4096 &&
         matrices * args.rows * args.cols * dtype_size(args.dtype) > int64_t{32} << 20;
}

// Columns of a run: of a whole row where no operand goes through a tile.
int64_t longest_run(const GluArgs& args, bool tiles) { return tiles ? kTile : args.cols; }

constexpr int64_t kRows = 32;  // of a tile, where no sums ask for more
// Rows added up in the type of the arithmetic before they go on to a tile's sum, in double: each
// addition rounds to the size of what it adds to.
constexpr int64_t kGroup = 16;

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
        pairs_(reads_pairs(args, true)),
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

    void* const sums[] = {args_.sums.gate, args_.sums.up, args_.sums.parameter};
    for (int i = 0; i < 3; ++i) {
      if (!sums[i]) continue;
      std::fill_n(group_[i], n, Real(0));
      std::fill_n(total_[i], n, 0.0);
    }
    const auto group = [&](int i) { return sums[i] ? group_[i] : nullptr; };
    const auto wanted = [](const Matrix& matrix, void* run) { return matrix.data ? run : nullptr; };
    for (int64_t row = begin; row < end; ++row) {
      const auto at = [&](const Matrix& matrix, int64_t step) {
        return static_cast<T*>(matrix.data) + row * matrix.row_stride + first * step;
      };
      const void* gate = pairs_ ? at(args_.gate, 2) : gate_(row, first, n);
      const void* up = pairs_ ? nullptr : up_(row, first, n);
      void* grad_gate = pairs_ ? at(args_.grad_gate, 2) : grad_gate_.begin(row, first);
      void* grad_up = pairs_ ? nullptr : grad_up_.begin(row, first);
      loop_({n, pairs_, args_.limit, gate_bias_, up_bias_, parameter_, gate, up,
             grad_out_(row, first, n), gate_tangent_(row, first, n), up_tangent_(row, first, n),
             wanted(out_, at(out_, 1)), wanted(args_.grad_gate, grad_gate),
             wanted(args_.grad_up, grad_up), group(0), group(1), group(2)});
      if (!pairs_) {
        grad_gate_.end(n);
        grad_up_.end(n);
      }
      if ((row + 1 - begin) % kGroup == 0 || row + 1 == end)
        for (int i = 0; i < 3; ++i)
          if (sums[i]) add_group(total_[i], group_[i], n);
    }
    for (int i = 0; i < 3; ++i)
      if (sums[i])
        std::copy_n(total_[i], n, static_cast<Real*>(sums[i]) + part * args_.cols + first);
  }

 private:
  using Real = typename MathFor<T>::type::Real;

  static void add_group(double* total, Real* group, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      total[i] += group[i];
      group[i] = Real(0);
    }
  }

  void read_row_vectors(int64_t first, int64_t n) {
    // adding -0 changes nothing, not even the sign of 0
    read_row_vector<T>(args_.gate_bias, Real(-0.0), first, n, gate_bias_);
    read_row_vector<T>(args_.up_bias, Real(-0.0), first, n, up_bias_);
    read_row_vector<T>(args_.parameter, static_cast<Real>(args_.scalar), first, n, parameter_);
  }

  const GluArgs& args_;
  const RowLoop loop_;
  const Matrix out_;
  const bool pairs_;
  StridedReader<T> gate_, up_, grad_out_, gate_tangent_, up_tangent_;
  StridedWriter<T> grad_gate_, grad_up_;
  alignas(64) Real gate_bias_[kTile], up_bias_[kTile], parameter_[kTile];
  // sums by gate, up and parameter
  alignas(64) Real group_[3][kTile];
  alignas(64) double total_[3][kTile];
};

// In double: a float would lose digits over many row blocks and over long rows.
template <class Real>
void reduce(const ReduceArgs& args) {
  if (args.cols == 0) return;
  double tile[kTile], total = 0;
  for (int64_t index = 0; index < args.count; ++index) {
    const Real* partials =
        static_cast<const Real*>(args.partials) + index * args.row_blocks * args.cols;
    Real* sums = static_cast<Real*>(args.sums) + index * args.cols;
    const bool is_total = args.total && index == args.count - 1;
    for (int64_t first = 0; first < args.cols; first += kTile) {
      const int64_t n = std::min(kTile, args.cols - first);
      std::fill_n(tile, n, 0.0);
      for (int64_t block = 0; block < args.row_blocks; ++block)
        for (int64_t i = 0; i < n; ++i) tile[i] += partials[block * args.cols + first + i];
      for (int64_t i = 0; i < n; ++i) {
        total += is_total ? tile[i] : 0.0;
        sums[first + i] = static_cast<Real>(tile[i]);
      }
    }
    if (is_total) sums[0] = static_cast<Real>(total);
  }
}

}  // namespace

bool has_flat_loops(const GluArgs& args) {
  return !args.has_options() && has_flat_kernels(args.variant) &&
         (!is_unary(args.variant) || uses_avx512(args.dtype));
}

void glu_forward(const GluArgs& args, int64_t begin, int64_t end) {
  const FlatLoops loops = find_flat_loops(args);
  const bool pairs = reads_pairs(args, false), tiles = args.step != 1 && !pairs;
  const bool non_temporal = !tiles && exceeds_caches(args, is_unary(args.variant) ? 2 : 3);
  visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    StridedReader<T> gate(args.gate, args.step), up(args.up, args.step);
    const int64_t longest = longest_run(args, tiles);
    for_each_run(args.cols, longest, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride + col;
      if (pairs) {
        const T* gate_up = static_cast<const T*>(args.gate.data) + row * args.gate.row_stride;
        loops.forward_pairs(gate_up + 2 * col, out, n, non_temporal);
      } else {
        loops.forward(gate(row, col, n), up(row, col, n), out, n, non_temporal);
      }
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
    const bool unary = is_unary(args.variant), pairs = reads_pairs(args, false);
    const bool tiles = grad_gate.needs_tile() || (!unary && grad_up.needs_tile());
    const bool non_temporal = !tiles && exceeds_caches(args, unary ? 3 : args.product ? 6 : 5);
    const int64_t longest = longest_run(args, tiles && !pairs);
    for_each_run(args.cols, longest, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* product = static_cast<T*>(args.grad_out.data) + row * args.grad_out.row_stride + col;
      if (pairs) {
        const T* gate_up = static_cast<const T*>(args.gate.data) + row * args.gate.row_stride;
        T* grads = static_cast<T*>(args.grad_gate.data) + row * args.grad_gate.row_stride;
        loops.backward_pairs(grad_out(row, col, n), gate_up + 2 * col, grads + 2 * col,
                             args.product ? product : nullptr, n);
        return;
      }
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
