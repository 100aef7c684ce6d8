// One element of a gated unit with all options: what biases, a limit, parameters and a weight do
// around f and g. Host and device.
//
//   z = min(gate + gate_bias, limit)    w = clamp(up + up_bias, -limit, limit)
//   out = f(z) * g(w) * weight
#pragma once

#include <type_traits>

#include "math/variants.h"

namespace fused_acts {

// The gradients by gate, up, the parameters and the weight, and the product that they are of.
template <class Real>
struct Gradients {
  Real gate, up, parameter, second, product, weight;
};

// Of sum(grad_out * out), twice: by grad_out, gate and up, of its gradients by gate and up times
// their tangents. The first one is also the tangent of out.
template <class Real>
struct SecondGradients {
  Real grad_out, gate, up;
};

// What of the options there may be: none; a limit, and a parameter of g; a parameter of f too; a
// weight too, each one number; biases and parameters for each column too.
enum class Options { kNone, kLimit, kNumbers, kWeighted, kRows };

// The numbers of a call, one for all elements or one for each.
template <class Real>
struct Numbers {
  Real parameter, second, limit, weight;
};

template <class Unit, class M, Options options = Options::kRows>
struct GatedUnit {
  using Real = typename M::Real;
  using F = std::conditional_t<options <= Options::kLimit, typename Unit::template F<M>,
                               typename Unit::template RowF<M>>;
  using G = typename Unit::template G<M>;

  F f;
  G g;
  Real limit, weight, gate_bias, up_bias;

  FUSED_ACTS_INLINE GatedUnit(Numbers<Real> numbers, Real gate_bias, Real up_bias)
      : f(make_f(numbers)),
        g(make_g(numbers)),
        limit(numbers.limit),
        weight(numbers.weight),
        gate_bias(gate_bias),
        up_bias(up_bias) {}

  // grad_out and up need not be a Real before f is computed, which needs the registers.
  template <class Up>
  FUSED_ACTS_INLINE Real forward(Real gate, Up later_up) const {
    const Real value = limited_value(f.value(limited_gate(biased_gate(gate))));
    return weighed(value * g.value(limited_up(biased_up(later_up))));
  }

  template <class GradOut, class Up>
  FUSED_ACTS_INLINE Gradients<Real> backward(GradOut later_grad_out, Real gate, Up later_up) const {
    const Real z = biased_gate(gate);
    auto f_dual = f.dual(limited_gate(z));
    const Real w = biased_up(later_up), grad_out = weighed(later_grad_out);
    auto g_dual = g.dual(limited_up(w));
    const Real seed = grad_out * g_dual.value, value = limited_value(f_dual.value);
    const Real up_seed = grad_out * value;
    return {by_gate(z, f_dual.value, times(f_dual.derivative, seed)),
            by_up(w, times(g_dual.derivative, up_seed)),
            by_parameter(limited_gate(z), seed),
            by_second(limited_gate(z), seed, limited_up(w), up_seed),
            weighed(value * g_dual.value),
            by_weight(later_grad_out, value * g_dual.value)};
  }

  FUSED_ACTS_INLINE SecondGradients<Real> double_backward(Real unweighed, Real gate, Real up,
                                                          Real gate_tangent,
                                                          Real up_tangent) const {
    const Real z = biased_gate(gate), w = biased_up(up), grad_out = weighed(unweighed);
    auto f_triple = f.triple(limited_gate(z));
    auto g_triple = g.triple(limited_up(w));
    const Real along_gate = by_gate(z, f_triple.value, gate_tangent);
    const Real along_up = by_up(w, up_tangent), value = limited_value(f_triple.value);
    // What is 0 by its kind, a derivative or the tangent of what stands still, is selected and not
    // multiplied: 0 * inf is no derivative.
    const Real f_moves = moving(f_triple.derivative, along_gate);
    const Real g_moves = moving(g_triple.derivative, along_up);
    const Real f_tangent = if_moving(f_moves, times(f_triple.derivative, along_gate));
    const Real g_tangent = times(g_triple.derivative, along_up);
    const Real f_factor = if_moving(g_moves, value);
    const Real g_factor = if_moving(f_moves, g_triple.value);
    const Real by_gates = times(f_triple.second, along_gate * (grad_out * g_triple.value));
    const Real by_ups = times(g_triple.second, along_up * (grad_out * value));
    const Real crossed_up =
        times(f_triple.derivative, times(g_triple.derivative, along_up * grad_out));
    const Real crossed_gate =
        times(g_triple.derivative, times(f_triple.derivative, along_gate * grad_out));
    return {weighed(fma(f_tangent, g_factor, g_tangent * f_factor)),
            by_gate(z, f_triple.value,
                    if_moving(along_gate, by_gates) + if_moving(along_up, crossed_up)),
            by_up(w, if_moving(along_up, by_ups) + if_moving(along_gate, crossed_gate))};
  }

 private:
  static FUSED_ACTS_INLINE F make_f([[maybe_unused]] Numbers<Real> numbers) {
    if constexpr (Unit::kHasTwoOfF) {
      return F(numbers.parameter, numbers.second);
    } else if constexpr (std::is_constructible_v<F, Real>) {
      return F(numbers.parameter);
    } else {
      return F{};
    }
  }
  static FUSED_ACTS_INLINE G make_g([[maybe_unused]] Numbers<Real> numbers) {
    if constexpr (Unit::kHasOneOfG) {
      return G(numbers.second);
    } else {
      return G{};
    }
  }

  FUSED_ACTS_INLINE Real weighed(Real x) const {
    return options >= Options::kWeighted ? x * weight : x;
  }
  FUSED_ACTS_INLINE Real biased_gate(Real x) const {
    return options == Options::kRows ? x + gate_bias : x;
  }
  FUSED_ACTS_INLINE Real biased_up(Real x) const {
    return options == Options::kRows ? x + up_bias : x;
  }
  FUSED_ACTS_INLINE Real limited_gate(Real x) const {
    return options == Options::kNone || Unit::kLimitsValue ? x : at_most(x, limit);
  }
  FUSED_ACTS_INLINE Real limited_value(Real x) const {
    return Unit::kLimitsValue ? at_most(x, limit) : x;
  }
  FUSED_ACTS_INLINE Real limited_up(Real x) const {
    return options == Options::kNone ? x : clamp(x, -limit, limit);
  }
  // A derivative by what was limited, 0 where it was cut off.
  FUSED_ACTS_INLINE Real by_gate(Real z, [[maybe_unused]] Real value, Real derivative) const {
    if constexpr (Unit::kLimitsValue) z = value;
    return options == Options::kNone ? derivative : select(z > limit, Real(0.0f), derivative);
  }
  FUSED_ACTS_INLINE Real by_up(Real x, Real derivative) const {
    return options == Options::kNone ? derivative : select(abs(x) > limit, Real(0.0f), derivative);
  }

  // grad_out is converted once more, which takes no register until then.
  template <class GradOut>
  FUSED_ACTS_INLINE Real by_weight([[maybe_unused]] GradOut later_grad_out,
                                   [[maybe_unused]] Real product) const {
    if constexpr (options == Options::kRows) {
      return static_cast<Real>(later_grad_out) * product;
    } else {
      return Real(0.0f);
    }
  }
  FUSED_ACTS_INLINE Real by_parameter([[maybe_unused]] Real z, [[maybe_unused]] Real seed) const {
    if constexpr (Unit::kHasTwoOfF || std::is_constructible_v<F, Real>) {
      return f.by_parameter(z, seed);
    } else {
      return Real(0.0f);
    }
  }
  FUSED_ACTS_INLINE Real by_second([[maybe_unused]] Real z, [[maybe_unused]] Real seed,
                                   [[maybe_unused]] Real w, [[maybe_unused]] Real up_seed) const {
    if constexpr (Unit::kHasTwoOfF) {
      return f.by_second(z, seed);
    } else if constexpr (Unit::kHasOneOfG) {
      return g.by_parameter(w, up_seed);
    } else {
      return Real(0.0f);
    }
  }
};

}  // namespace fused_acts
