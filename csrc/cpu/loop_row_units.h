// The loops of the units of whole rows over a run of columns. Only for the files that compile them
// for an instruction set.
#pragma once

#include "cpu/access.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

template <class Isa, class T, template <class> class Math>
class RowUnitLoops {
  using Lane = typename Isa::Lane;
  static constexpr int kUnroll = Isa::kLanes > 1 ? 2 : 1;
  static constexpr int64_t kStep = kUnroll * Isa::kLanes;
  using Access = Full<Isa, kUnroll>;
  using Real = RealOf<Access>;
  using M = Math<Real>;
  // Steps added up in the type of the arithmetic before they go on to a sum in double.
  static constexpr int64_t kGroup = 32 * kStep;

  // Neighbouring columns of the operands; what is not there is null.
  struct Columns {
    const T *first, *second, *grad_out;
    const Lane* weight;
    T *out, *grad_first, *grad_second;
    Lane* weight_sum;
  };

 public:
  static void add(const RowRun& run, double* sums) {
    visit_row_unit<M>(run.settings, [&](auto unit) FUSED_ACTS_SIMD {
      using Unit = decltype(unit);
      const Real shift(static_cast<Lane>(run.shift));
      Columns all = columns_of(run);
      if (!unit.adds_second()) all.second = nullptr;
      sum_up<Unit::kSums>(run, all, sums, [&](const Columns& at, Real* total) FUSED_ACTS_SIMD {
        unit.add(read(at.first), read_or_one(at.second), shift, total);
      });
    });
  }

  static void forward(const RowRun& run) {
    visit_row_unit<M>(run.settings, [&](auto unit) FUSED_ACTS_SIMD {
      Real c[kRowConstants];
      broadcast<decltype(unit)::kConstants>(run.constants, c);
      for_each_step(run, columns_of(run), 0, run.n, [&](const Columns& at) FUSED_ACTS_SIMD {
        store(Access{}, at.out,
              unit.value(read(at.first), read(at.second), read_or_one(at.weight), c));
      });
    });
  }

  static void add_backward(const RowRun& run, double* sums) {
    visit_row_unit<M>(run.settings, [&](auto unit) FUSED_ACTS_SIMD {
      using Unit = decltype(unit);
      Real c[kRowConstants];
      broadcast<Unit::kConstants>(run.constants, c);
      sum_up<Unit::kBackwardSums>(
          run, columns_of(run), sums, [&](const Columns& at, Real* total) FUSED_ACTS_SIMD {
            unit.add_backward(read(at.grad_out), read(at.first), read(at.second),
                              read_or_one(at.weight), c, total);
          });
    });
  }

  static void backward(const RowRun& run) {
    visit_row_unit<M>(run.settings, [&](auto unit) FUSED_ACTS_SIMD {
      Real c[kRowConstants];
      broadcast<decltype(unit)::kBackwardConstants>(run.constants, c);
      for_each_step(run, columns_of(run), 0, run.n, [&](const Columns& at) FUSED_ACTS_SIMD {
        auto grads = unit.gradients(read(at.grad_out), read(at.first), read(at.second),
                                    read_or_one(at.weight), c);
        if (at.grad_first) store(Access{}, at.grad_first, grads.x);
        if (at.grad_second) store(Access{}, at.grad_second, grads.y);
        if (at.weight_sum) store(Access{}, at.weight_sum, read(at.weight_sum) + grads.weight);
      });
    });
  }

 private:
  template <class S>
  static FUSED_ACTS_INLINE Real read(const S* p) {
    return load(Access{}, p);
  }
  template <class S>
  static FUSED_ACTS_INLINE Real read_or_one(const S* p) {
    return p ? read(p) : Real(1.0f);
  }
  template <int kCount>
  static FUSED_ACTS_INLINE void broadcast(const double* numbers, Real* c) {
    for (int i = 0; i < kCount; ++i) c[i] = Real(static_cast<Lane>(numbers[i]));
  }

  static FUSED_ACTS_INLINE Columns columns_of(const RowRun& run) {
    return {static_cast<const T*>(run.first),
            static_cast<const T*>(run.second),
            static_cast<const T*>(run.grad_out),
            static_cast<const Lane*>(run.weight),
            static_cast<T*>(run.out),
            static_cast<T*>(run.grad_first),
            static_cast<T*>(run.grad_second),
            static_cast<Lane*>(run.weight_sum)};
  }

  // Goes on with kCount sums of what step(columns, sums) adds.
  template <int kCount, class Step>
  static FUSED_ACTS_INLINE void sum_up(const RowRun& run, const Columns& all, double* sums,
                                       Step step) {
    for (int64_t begin = 0; begin < run.n; begin += kGroup) {
      Real total[kCount];
      for (int k = 0; k < kCount; ++k) total[k] = Real(0.0f);
      for_each_step(run, all, begin, begin + kGroup < run.n ? begin + kGroup : run.n,
                    [&](const Columns& at) FUSED_ACTS_SIMD { step(at, total); });
      for (int k = 0; k < kCount; ++k) sums[k] += sum_of_lanes(total[k]);
    }
  }

  // Calls step(columns) for kStep columns of [begin, end) at a time, the last of them copied and
  // filled up with what adds nothing.
  template <class Step>
  static FUSED_ACTS_INLINE void for_each_step(const RowRun& run, const Columns& all, int64_t begin,
                                              int64_t end, Step step) {
    const auto from = [&](int64_t i) FUSED_ACTS_SIMD {
      const auto at = [i](auto* p) { return p ? p + i : p; };
      return Columns{at(all.first), at(all.second),     at(all.grad_out),    at(all.weight),
                     at(all.out),   at(all.grad_first), at(all.grad_second), at(all.weight_sum)};
    };
    int64_t i = begin;
    for (; i + kStep <= end; i += kStep) step(from(i));
    if (i == end) return;
    T first[kStep], second[kStep] = {}, grad_out[kStep] = {};
    T out[kStep] = {}, grad_first[kStep] = {}, grad_second[kStep] = {};
    Lane weight[kStep] = {}, weight_sum[kStep] = {};
    // a shift is one of the row's values
    for (T& x : first) x = run.shifts ? *static_cast<const T*>(run.shifts) : T{};
    const Columns last = from(i);
    const int64_t n = end - i;
    copy(last.first, n, first);
    copy(last.second, n, second);
    copy(last.grad_out, n, grad_out);
    copy(last.weight, n, weight);
    copy(last.weight_sum, n, weight_sum);
    const auto if_there = [](auto* p, auto* buffer) { return p ? buffer : nullptr; };
    step(Columns{first, if_there(last.second, second), if_there(last.grad_out, grad_out),
                 if_there(last.weight, weight), if_there(last.out, out),
                 if_there(last.grad_first, grad_first), if_there(last.grad_second, grad_second),
                 if_there(last.weight_sum, weight_sum)});
    copy(out, n, last.out);
    copy(grad_first, n, last.grad_first);
    copy(grad_second, n, last.grad_second);
    copy(weight_sum, n, last.weight_sum);
  }

  template <class S>
  static FUSED_ACTS_INLINE void copy(const S* from, int64_t n, S* to) {
    if (from && to) std::memcpy(to, from, n * sizeof(S));
  }

  static FUSED_ACTS_INLINE double sum_of_lanes(Real x) {
    Lane lanes[kStep];
    store(Access{}, lanes, x);
    double sum = 0;
    for (const Lane lane : lanes) sum += lane;
    return sum;
  }
};

}  // namespace
}  // namespace fused_acts::cpu
