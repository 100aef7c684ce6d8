// Calls with options, in tiles: some columns of some rows.
#include <algorithm>

#include "convert.h"
#include "general_loops.h"
#include "runs.h"

namespace fused_acts::cpu {
namespace {

constexpr int64_t kRows = 32;  // of a tile, where no sums ask for more

int64_t column_tiles(const GluArgs& args) { return (args.cols + kTile - 1) / kTile; }
int64_t rows_per_tile(const GluArgs& args) { return args.chunks ? args.rows_per_chunk() : kRows; }

// The columns of a row that all rows share, or one value in its place.
template <class T, class Real>
void read_row(const Row& row, Real otherwise, int64_t first, int64_t n, Real* target) {
  if (!row.data) {
    std::fill_n(target, n, otherwise);
  } else if (row.wide || std::is_same_v<T, Real>) {
    const Real* source = static_cast<const Real*>(row.data) + first * row.step;
    for (int64_t i = 0; i < n; ++i) target[i] = source[i * row.step];
  } else if constexpr (!std::is_same_v<T, Real>) {
    const T* source = static_cast<const T*>(row.data) + first * row.step;
    T dense[kTile];
    for (int64_t i = 0; i < n; ++i) dense[i] = source[i * row.step];
    to_float(dense, target, n);
  }
}

template <class T>
class Call {
 public:
  Call(Direction direction, const GluArgs& args)
      : args_(args),
        loop_(processor_capability() >= Capability::kAvx512 && args.dtype != DType::kFloat64
                  ? avx512_general_loop(direction, args.variant, args.dtype)
                  : portable_general_loop(direction, args.variant, args.dtype)),
        out_(args.product ? args.grad_out : args.out),
        gate_(args.gate, args.step),
        up_(args.up, args.step),
        grad_out_(args.grad_out, 1),
        gate_tangent_(args.gate_tangent, args.step),
        up_tangent_(args.up_tangent, args.step),
        grad_gate_(args.grad_gate, args.step),
        grad_up_(args.grad_up, args.step) {
    if (!args.has_rows()) read_rows(0, kTile);
  }

  void run(int64_t tile) {
    const int64_t part = tile / column_tiles(args_), first = tile % column_tiles(args_) * kTile;
    const int64_t n = std::min(kTile, args_.cols - first);
    const int64_t begin = part * rows_per_tile(args_);
    const int64_t end = std::min(args_.rows, begin + rows_per_tile(args_));
    if (args_.has_rows()) read_rows(first, n);

    const auto sum = [&](void* sums) -> void* {
      if (!sums) return nullptr;
      Real* columns = static_cast<Real*>(sums) + part * args_.cols + first;
      std::fill_n(columns, n, Real(0));
      return columns;
    };
    void *gate_sum = sum(args_.sums.gate), *up_sum = sum(args_.sums.up);
    void* parameter_sum = sum(args_.sums.parameter);
    const auto wanted = [](const Operand& operand, void* run) {
      return operand.data ? run : nullptr;
    };
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

  void read_rows(int64_t first, int64_t n) {
    // adding -0 changes nothing, not even the sign of 0
    read_row<T>(args_.gate_bias, Real(-0.0), first, n, gate_bias_);
    read_row<T>(args_.up_bias, Real(-0.0), first, n, up_bias_);
    read_row<T>(args_.parameter, static_cast<Real>(args_.scalar), first, n, parameter_);
  }

  const GluArgs& args_;
  const GeneralLoop loop_;
  const Operand out_;
  Reader<T> gate_, up_, grad_out_, gate_tangent_, up_tangent_;
  Writer<T> grad_gate_, grad_up_;
  alignas(64) Real gate_bias_[kTile], up_bias_[kTile], parameter_[kTile];
};

template <class Real>
void add_chunks_of(const SumArgs& args) {
  const Real* partial = static_cast<const Real*>(args.partial);
  Real* sums = static_cast<Real*>(args.sums);
  std::fill_n(sums, args.kinds * args.cols, Real(0));
  for (int64_t kind = 0; kind < args.kinds; ++kind, sums += args.cols)
    for (int64_t chunk = 0; chunk < args.chunks; ++chunk, partial += args.cols)
      for (int64_t i = 0; i < args.cols; ++i) sums[i] += partial[i];
  if (!args.total || args.cols == 0) return;
  sums -= args.cols;
  double total = 0;  // a float would lose digits over long rows
  for (int64_t i = 0; i < args.cols; ++i) total += sums[i];
  sums[0] = static_cast<Real>(total);
}

}  // namespace

GeneralLoop portable_general_loop(Direction direction, Variant variant, DType dtype) {
  return visit_dtype(dtype,
                     [&](auto t) { return find_portable_loop<decltype(t)>(direction, variant); });
}

int64_t tile_count(const GluArgs& args) {
  const int64_t rows = rows_per_tile(args);
  return (args.rows + rows - 1) / rows * column_tiles(args);
}

void glu_general(Direction direction, const GluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    Call<decltype(t)> call(direction, args);
    for (int64_t i = begin; i < end; ++i) call.run(i);
  });
}

void add_chunks(const SumArgs& args) {
  args.is_double ? add_chunks_of<double>(args) : add_chunks_of<float>(args);
}

}  // namespace fused_acts::cpu
