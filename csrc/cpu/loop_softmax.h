// The loops of softmax_glu over a run of columns. Only for the files that compile them for an
// instruction set.
#pragma once

#include <cmath>

#include "cpu/access.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

// -inf, which takes no part in a maximum or a sum of exponentials.
constexpr double nothing(double) { return -HUGE_VAL; }
constexpr float nothing(float) { return -HUGE_VALF; }
constexpr Float16 nothing(Float16) { return {0xfc00}; }
constexpr BFloat16 nothing(BFloat16) { return {0xff80}; }

template <class Isa, class T, template <class> class Math>
class SoftmaxLoops {
  using Lane = typename Isa::Lane;
  static constexpr int kUnroll = Isa::kLanes > 1 ? 2 : 1;
  static constexpr int64_t kStep = kUnroll * Isa::kLanes;
  using Access = Full<Isa, kUnroll>;
  using Real = RealOf<Access>;
  // Steps added up in the type of the arithmetic before they go on to a sum in double.
  static constexpr int64_t kGroup = 32 * kStep;

 public:
  // Goes on with sum(exp(gate - largest)), relative to the largest gate so far.
  static void sum_up(const void* gate_data, int64_t n, double* largest, double* sum) {
    const T* gate = static_cast<const T*>(gate_data);
    for (int64_t i = 0; i < n; i += kGroup) {
      const int64_t count = kGroup < n - i ? kGroup : n - i;
      Real most(static_cast<Lane>(*largest)), total(0.0f);
      for_each_step(count, gate + i, {}, {}, static_cast<T*>(nullptr),
                    [&](const T* x, const T*, const T*, T*) FUSED_ACTS_SIMD {
                      const Real value = load_in_any_order(Access{}, x);
                      most = select(value > most, value, most);
                    });
      const double before = *largest;
      *largest = largest_lane(most);
      const Real reference(static_cast<Lane>(*largest));
      for_each_step(count, gate + i, {}, {}, static_cast<T*>(nullptr),
                    [&](const T* x, const T*, const T*, T*) FUSED_ACTS_SIMD {
                      total = total + exponential(reference - load_in_any_order(Access{}, x));
                    });
      *sum = *sum * ::exp(before - *largest) + sum_of_lanes(total);
    }
  }

  // out = p * up, where p = exp(gate - largest) * scale.
  static void forward(const void* gate, const void* up, void* out, int64_t n, double largest,
                      double scale) {
    const Real reference(static_cast<Lane>(largest)), factor(static_cast<Lane>(scale));
    for_each_step(
        n, static_cast<const T*>(gate), static_cast<const T*>(up), {}, static_cast<T*>(out),
        [&](const T* x, const T* y, const T*, T* target) FUSED_ACTS_SIMD {
          const Real p = exponential(reference - load_in_any_order(Access{}, x));
          store_in_any_order(Access{}, target, p * (factor * load_in_any_order(Access{}, y)));
        });
  }

  // grad_up = p * grad_out, if it is wanted; returns sum(p * grad_out * up).
  static double backward_up(const void* gate, const void* up, const void* grad_out, void* grad_up,
                            int64_t n, double largest, double scale) {
    const Real reference(static_cast<Lane>(largest)), factor(static_cast<Lane>(scale));
    double sum = 0;
    for (int64_t i = 0; i < n; i += kGroup) {
      Real total(0.0f);
      for_each_step(kGroup < n - i ? kGroup : n - i, static_cast<const T*>(gate) + i,
                    static_cast<const T*>(up) + i, static_cast<const T*>(grad_out) + i,
                    grad_up ? static_cast<T*>(grad_up) + i : nullptr,
                    [&](const T* x, const T* y, const T* g, T* target) FUSED_ACTS_SIMD {
                      const Real grad = load_in_any_order(Access{}, g);
                      const Real p =
                          exponential(reference - load_in_any_order(Access{}, x)) * factor;
                      total = total + p * (grad * load_in_any_order(Access{}, y));
                      if (target) store_in_any_order(Access{}, target, p * grad);
                    });
      sum += sum_of_lanes(total);
    }
    return sum;
  }

  // grad_gate = p * (grad_out * up - sum)
  static void backward_gate(const void* gate, const void* up, const void* grad_out, void* grad_gate,
                            int64_t n, double largest, double scale, double sum) {
    const Real reference(static_cast<Lane>(largest)), factor(static_cast<Lane>(scale));
    const Real mean(static_cast<Lane>(sum));
    for_each_step(n, static_cast<const T*>(gate), static_cast<const T*>(up),
                  static_cast<const T*>(grad_out), static_cast<T*>(grad_gate),
                  [&](const T* x, const T* y, const T* g, T* target) FUSED_ACTS_SIMD {
                    const Real p = exponential(reference - load_in_any_order(Access{}, x)) * factor;
                    const Real seed =
                        load_in_any_order(Access{}, g) * load_in_any_order(Access{}, y);
                    store_in_any_order(Access{}, target, p * (seed - mean));
                  });
  }

 private:
  static FUSED_ACTS_INLINE Real exponential(Real z) { return Math<Real>::exponential(z).exp; }

  // Calls step(gate, up, grad_out, out) for kStep elements at a time, the last of them copied and
  // filled up with what adds nothing; what is null stays so.
  template <class Step>
  static FUSED_ACTS_INLINE void for_each_step(int64_t n, const T* gate, const T* up,
                                              const T* grad_out, T* out, Step step) {
    const auto at = [](auto* p, int64_t i) { return p ? p + i : p; };
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep) step(gate + i, at(up, i), at(grad_out, i), at(out, i));
    if (i == n) return;
    T gates[kStep], ups[kStep] = {}, grads[kStep] = {}, results[kStep];
    for (T& x : gates) x = nothing(T{});
    const size_t bytes = (n - i) * sizeof(T);
    std::memcpy(gates, gate + i, bytes);
    if (up) std::memcpy(ups, up + i, bytes);
    if (grad_out) std::memcpy(grads, grad_out + i, bytes);
    step(gates, up ? ups : nullptr, grad_out ? grads : nullptr, out ? results : nullptr);
    if (out) std::memcpy(out + i, results, bytes);
  }

  static FUSED_ACTS_INLINE double largest_lane(Real x) {
    Lane lanes[kStep];
    store(Access{}, lanes, x);
    Lane largest = lanes[0];
    for (const Lane lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
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
