// The tables of gated units, out = f(gate) * g(up), and of activations, out = f(x).
//
// A variant is one row; kernels, launchers and the Python module iterate over the tables and know
// no names. An activation is a variant without up, whose gate is x.
#pragma once

#include <type_traits>

#include "math/activations.h"

#ifdef FUSED_ACTS_OWN
#include <own_unit.h>  // tables of one row
#else

// X(name, f, g). Those of the first table have kernels and loops without numbers too.
#define FUSED_ACTS_PLAIN_VARIANTS(X) \
  X(glu, Sigmoid, Identity)          \
  X(bilinear, Identity, Identity)    \
  X(reglu, Relu, Identity)           \
  X(geglu, Gelu, Identity)           \
  X(geglu_tanh, GeluTanh, Identity)  \
  X(swiglu, Swish, Identity)

#define FUSED_ACTS_VARIANTS(X)            \
  FUSED_ACTS_PLAIN_VARIANTS(X)            \
  X(gtu, Sigmoid, Tanh)                   \
  X(tanh_glu, Tanh, Identity)             \
  X(leaky_reglu, LeakyRelu, Identity)     \
  X(preglu, LeakyRelu, Identity)          \
  X(elu_glu, Elu, Identity)               \
  X(squared_reglu, SquaredRelu, Identity) \
  X(quick_geglu, SwishBeta, Identity)     \
  X(glu_relu, Sigmoid, Relu)              \
  X(swiglu_oai, SwishBeta, PlusOne)       \
  X(softplus_glu, Softplus, Identity)     \
  X(fatreglu, FatRelu, Identity)          \
  X(situ_glu, Situ, SoftCap)              \
  X(swiglu_step, SwishThenLimit, Identity)

// X(name, f, Unary)
#define FUSED_ACTS_PLAIN_ACTIVATIONS(X) \
  X(sigmoid, Sigmoid, Unary)            \
  X(tanh, Tanh, Unary)                  \
  X(relu, Relu, Unary)                  \
  X(squared_relu, SquaredRelu, Unary)   \
  X(gelu, Gelu, Unary)                  \
  X(gelu_tanh, GeluTanh, Unary)         \
  X(swish, Swish, Unary)                \
  X(mish, Mish, Unary)

#define FUSED_ACTS_ACTIVATIONS(X)    \
  FUSED_ACTS_PLAIN_ACTIVATIONS(X)    \
  X(leaky_relu, LeakyRelu, Unary)    \
  X(prelu, LeakyRelu, Unary)         \
  X(elu, Elu, Unary)                 \
  X(quick_gelu, SwishBeta, Unary)    \
  X(softplus, Softplus, Unary)       \
  X(relu6, Relu6, Unary)             \
  X(hardsigmoid, HardSigmoid, Unary) \
  X(hardswish, HardSwish, Unary)     \
  X(softsign, Softsign, Unary)       \
  X(xielu, Xielu, Unary)

#endif  // FUSED_ACTS_OWN

namespace fused_acts {

enum class Variant : int {
#define FUSED_ACTS_ENUMERATOR(name, ...) name,
  FUSED_ACTS_VARIANTS(FUSED_ACTS_ENUMERATOR) FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_ENUMERATOR)
#undef FUSED_ACTS_ENUMERATOR
      kCount
};

// What stands in the place of g where there is no up.
template <class M>
struct Unary {
  using Real = typename M::Real;
  static constexpr const char* kName = "unary";
  FUSED_ACTS_INLINE Real value(Real) const { return Real(1.0f); }
  FUSED_ACTS_INLINE Dual<Real, Zero> dual(Real) const { return {Real(1.0f), Zero{}}; }
  FUSED_ACTS_INLINE Triple<Real, Zero, Zero> triple(Real) const {
    return {Real(1.0f), Zero{}, Zero{}};
  }
};

template <template <class> class GType>
constexpr bool kIsUnary = false;
template <>
inline constexpr bool kIsUnary<Unary> = true;

// f as kernels with numbers take it: with its parameter, where the table has it at the usual value,
// kUsual.
template <class F>
struct WithParameter {
  using type = F;
};
template <class M>
struct WithParameter<Swish<M>> {
  using type = SwishBeta<M>;
};
template <class M>
struct WithParameter<Situ<M>> {
  using type = SituBeta<M>;
};

// The functions of a variant, with the math M still to be chosen.
template <template <class> class FType, template <class> class GType>
struct Unit {
  template <class M>
  using F = FType<M>;
  template <class M>
  using RowF = typename WithParameter<FType<M>>::type;
  template <class M>
  using G = GType<M>;
  static constexpr bool kIsUnary = fused_acts::kIsUnary<GType>;
  // Whether the limit is that of f(gate), not of gate.
  static constexpr bool kLimitsValue = std::is_same_v<FType<Math64>, SwishThenLimit<Math64>>;
  // Parameters: one of f, two of f, or one of f and one of g.
  static constexpr bool kHasTwoOfF = std::is_constructible_v<RowF<Math64>, double, double>;
  static constexpr bool kHasOneOfG = std::is_constructible_v<G<Math64>, double>;
  static constexpr bool kHasParameter = kHasTwoOfF || std::is_constructible_v<RowF<Math64>, double>;
  static constexpr bool kHasSecond = kHasTwoOfF || kHasOneOfG;
};

template <class Unit>
constexpr bool kHasPlainKernels = false;
#define FUSED_ACTS_HAS_THEM(name, f, g) \
  template <>                           \
  inline constexpr bool kHasPlainKernels<Unit<f, g>> = true;
FUSED_ACTS_PLAIN_VARIANTS(FUSED_ACTS_HAS_THEM)
FUSED_ACTS_PLAIN_ACTIVATIONS(FUSED_ACTS_HAS_THEM)
#undef FUSED_ACTS_HAS_THEM

// Whether f has a parameter that the table has at the usual value.
template <class Unit>
constexpr bool kHasOwnParameter =
    !std::is_same_v<typename Unit::template F<Math64>, typename Unit::template RowF<Math64>>;

// The value of the parameter that loops without it have.
template <class Unit>
constexpr double usual_parameter() {
  if constexpr (kHasOwnParameter<Unit>) return Unit::template F<Math64>::kUsual;
  return 1.0;
}

// Whether there are kernels and loops with numbers: an activation without a parameter has no use
// for them.
template <class Unit>
constexpr bool kTakesNumbers = !(Unit::kIsUnary && kHasPlainKernels<Unit>) || Unit::kHasParameter;

#define FUSED_ACTS_CASE(name, f, g) \
  case Variant::name:               \
    return visitor(Unit<f, g>{});

// Calls visitor(Unit<f, g>{}) for a variant of the tables of those without numbers, which may be
// empty: the visitor says what it returns.
template <class Visitor>
auto visit_plain_variant(Variant variant, Visitor&& visitor)
    -> decltype(visitor(Unit<Identity, Identity>{})) {
  switch (variant) {
    FUSED_ACTS_PLAIN_VARIANTS(FUSED_ACTS_CASE)
    FUSED_ACTS_PLAIN_ACTIVATIONS(FUSED_ACTS_CASE)
    default:
      __builtin_unreachable();  // callers ask UnitCode::has_plain_kernels
  }
}

// Calls visitor(Unit<f, g>{}) for any variant; also within a kernel.
#ifdef __CUDACC__
#pragma nv_exec_check_disable  // of what one side alone calls
#endif
template <class Visitor>
FUSED_ACTS_INLINE constexpr auto visit_variant(Variant variant, Visitor&& visitor) {
  switch (variant) {
    FUSED_ACTS_VARIANTS(FUSED_ACTS_CASE)
    FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_CASE)
    default:
      __builtin_unreachable();  // ops/units.cpp checks the range
  }
}

#undef FUSED_ACTS_CASE

}  // namespace fused_acts
