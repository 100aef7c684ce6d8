// The units of whole rows, in parts of rows: what a part adds to the sums of its group, and then
// its results.
#include "kernels/row_units.h"

#include <algorithm>

#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// T is the storage type, Unit a functor over double, for what is computed once a row.
template <class T, class Unit>
class Call {
 public:
  Call(const RowUnitArgs& args, int64_t part, const Unit& unit)
      : args_(args), unit_(unit), loop_(loops_for(args.dtype).row_unit), part_(part) {
    const int64_t length = (args.cols + args.parts - 1) / args.parts;
    first_ = std::min(part * length, args.cols);
    length_ = std::min(length, args.cols - first_);
    if constexpr (Unit::kHasParameters) {
      for (int i = 0; i < 3; ++i) parameters_[i] = static_cast<const Real*>(args.weight.data)[i];
      parameters_[3] = *static_cast<const Real*>(args.bias.data);
    }
  }

  // To be called before the results of a block of rows.
  void clear(int64_t row) const {
    if (!args_.parameter_sums) return;
    for (int64_t group = 0; Unit::kHasWeight && group < args_.groups; ++group)
      std::fill_n(weight_sum_of(row, group), length_, Real(0));
    if (Unit::kHasParameters && part_ == 0)
      std::fill_n(parameter_sums_of(row), kRowParameters, Real(0));
  }

  void add_forward(int64_t row, int64_t group) {
    double* sums = sums_of(row, group, part_);
    std::fill_n(sums, kRowSums, 0.0);
    loop_.add(run_of(row, group), sums);
  }

  void forward(int64_t row, int64_t group) {
    RowRun run = run_of(row, group);
    double sums[kRowSums], stats[kRowSums];
    total(row, group, sums);
    unit_.statistics(sums, double(args_.cols), run.shift, stats);
    // as backward has them
    for (int i = 0; i < Unit::kStats; ++i) stats[i] = static_cast<Real>(stats[i]);
    unit_.constants(stats, parameters_, run.constants);
    loop_.forward(run);
    if (part_ == 0) std::copy_n(stats, Unit::kStats, stats_of(row, group));
  }

  void add_backward(int64_t row, int64_t group) {
    RowRun run = run_of(row, group);
    double stats[kRowSums], *sums = sums_of(row, group, part_);
    std::copy_n(stats_of(row, group), Unit::kStats, stats);
    unit_.constants(stats, parameters_, run.constants);
    std::fill_n(sums, kRowSums, 0.0);
    loop_.add_backward(run, sums);
  }

  void backward(int64_t row, int64_t group) {
    RowRun run = run_of(row, group);
    double sums[kRowSums], stats[kRowSums];
    total(row, group, sums);
    std::copy_n(stats_of(row, group), Unit::kStats, stats);
    unit_.backward_constants(stats, parameters_, sums, double(args_.cols), run.constants);
    if (Unit::kHasWeight && args_.parameter_sums) run.weight_sum = weight_sum_of(row, group);
    loop_.backward(run);
    if (Unit::kHasParameters && args_.parameter_sums && part_ == 0) {
      double added[kRowParameters];
      unit_.parameter_sums(stats, sums, added);
      for (int i = 0; i < kRowParameters; ++i)
        parameter_sums_of(row)[i] += static_cast<Real>(added[i]);
    }
  }

 private:
  using Real = typename MathFor<T>::type::Real;

  int64_t column(int64_t group) const { return group * args_.cols + first_; }

  RowRun run_of(int64_t row, int64_t group) const {
    const auto at = [&](const Matrix& operand) {
      T* data = static_cast<T*>(operand.data);
      return data ? data + row * operand.row_stride + column(group) : nullptr;
    };
    RowRun run{};
    run.settings = args_.settings;
    run.n = length_;
    run.first = at(args_.first);
    run.second = at(args_.second);
    run.grad_out = at(args_.grad_out);
    run.out = at(args_.out);
    run.grad_first = at(args_.grad_first);
    run.grad_second = at(args_.grad_second);
    if (Unit::kHasWeight) run.weight = static_cast<const Real*>(args_.weight.data) + column(group);
    if (Unit::kShifted) {
      const T* values = at(args_.first) - first_;
      const int64_t places[] = {0, args_.cols / 2, args_.cols - 1};
      Real some[3];
      for (int i = 0; i < 3; ++i) loops_for(args_.dtype).widen(values + places[i], &some[i], 1);
      const int middle = middle_of(some);
      run.shifts = values + places[middle];
      run.shift = some[middle];
    }
    return run;
  }

  Real* stats_of(int64_t row, int64_t group) const {
    return static_cast<Real*>(args_.stats) + (row * args_.groups + group) * Unit::kStats;
  }
  Real* parameter_sums_of(int64_t row) const {
    return static_cast<Real*>(args_.parameter_sums) + row / args_.rows_per_block() * kRowParameters;
  }
  Real* weight_sum_of(int64_t row, int64_t group) const {
    return static_cast<Real*>(args_.parameter_sums) +
           row / args_.rows_per_block() * (args_.groups * args_.cols) + column(group);
  }
  double* sums_of(int64_t row, int64_t group, int64_t part) {
    if (!args_.partials) return sums_;
    return args_.partials + ((row * args_.groups + group) * args_.parts + part) * kRowSums;
  }
  void total(int64_t row, int64_t group, double* sums) {
    std::fill_n(sums, kRowSums, 0.0);
    for (int64_t part = 0; part < args_.parts; ++part)
      for (int i = 0; i < kRowSums; ++i) sums[i] += sums_of(row, group, part)[i];
  }

  const RowUnitArgs& args_;
  const Unit unit_;
  const RowUnitLoop& loop_;
  int64_t part_, first_, length_;
  double parameters_[kRowParameters] = {};
  double sums_[kRowSums];  // where there are no partials
};

}  // namespace

void row_unit_rows(Direction direction, const RowUnitArgs& args, int64_t begin, int64_t end,
                   int64_t part, bool adds, bool finishes) {
  const bool forward = direction == Direction::kForward;
  visit_dtype(args.dtype, [&](auto t) {
    visit_row_unit<Math64>(args.settings, [&](auto unit) {
      Call<decltype(t), decltype(unit)> call(args, part, unit);
      if (finishes) call.clear(begin);
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t group = 0; group < args.groups; ++group) {
          if (adds) forward ? call.add_forward(row, group) : call.add_backward(row, group);
          if (finishes) forward ? call.forward(row, group) : call.backward(row, group);
        }
      }
    });
  });
}

}  // namespace fused_acts::cpu
