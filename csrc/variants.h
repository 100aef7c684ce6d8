// The tables of gated units, out = f(gate) * g(up), and of activations alone, out = f(x).
// Torch-free.
//
// A variant is one row; kernels, launchers and the Python module iterate over the tables and know
// no names. An activation is a variant without up, whose gate is x.
#pragma once

#include "activations.h"

// X(name, f, g, f with its parameter)
//
// Calls without options to the common ones have kernels of their own.
#define FUSED_ACTS_COMMON_VARIANTS(X)         \
  X(glu, Sigmoid, Identity, Sigmoid)          \
  X(bilinear, Identity, Identity, Identity)   \
  X(reglu, Relu, Identity, Relu)              \
  X(geglu, Gelu, Identity, Gelu)              \
  X(geglu_tanh, GeluTanh, Identity, GeluTanh) \
  X(swiglu, Swish, Identity, SwishBeta)

#define FUSED_ACTS_VARIANTS(X)                         \
  FUSED_ACTS_COMMON_VARIANTS(X)                        \
  X(gtu, Sigmoid, Tanh, Sigmoid)                       \
  X(tanh_glu, Tanh, Identity, Tanh)                    \
  X(leaky_reglu, LeakyRelu, Identity, LeakyRelu)       \
  X(preglu, LeakyRelu, Identity, LeakyRelu)            \
  X(elu_glu, Elu, Identity, Elu)                       \
  X(squared_reglu, SquaredRelu, Identity, SquaredRelu) \
  X(quick_geglu, SwishBeta, Identity, SwishBeta)       \
  X(glu_relu, Sigmoid, Relu, Sigmoid)                  \
  X(swiglu_oai, SwishBeta, PlusOne, SwishBeta)

// X(name, f, Alone, f with its parameter)
#define FUSED_ACTS_COMMON_ACTIVATIONS(X)           \
  X(sigmoid, Sigmoid, Alone, Sigmoid)              \
  X(tanh, Tanh, Alone, Tanh)                       \
  X(relu, Relu, Alone, Relu)                       \
  X(squared_relu, SquaredRelu, Alone, SquaredRelu) \
  X(gelu, Gelu, Alone, Gelu)                       \
  X(gelu_tanh, GeluTanh, Alone, GeluTanh)          \
  X(swish, Swish, Alone, SwishBeta)                \
  X(mish, Mish, Alone, Mish)

#define FUSED_ACTS_ACTIVATIONS(X)            \
  FUSED_ACTS_COMMON_ACTIVATIONS(X)           \
  X(leaky_relu, LeakyRelu, Alone, LeakyRelu) \
  X(prelu, LeakyRelu, Alone, LeakyRelu)      \
  X(elu, Elu, Alone, Elu)                    \
  X(quick_gelu, SwishBeta, Alone, SwishBeta) \
  X(softplus, Softplus, Alone, Softplus)

namespace fused_acts {

enum class Variant : int {
#define FUSED_ACTS_ENUMERATOR(name, ...) name,
  FUSED_ACTS_VARIANTS(FUSED_ACTS_ENUMERATOR) kActivations,
  kBeforeActivations = kActivations - 1,
  FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_ENUMERATOR)
#undef FUSED_ACTS_ENUMERATOR
      kCount
};

// What stands in the place of g where there is no up.
template <class M>
struct Alone {
  using Real = typename M::Real;
  static constexpr const char* kName = "alone";
  FUSED_ACTS_INLINE Real value(Real) const { return Real(1.0f); }
  FUSED_ACTS_INLINE Dual<Real, Zero> dual(Real) const { return {Real(1.0f), Zero{}}; }
  FUSED_ACTS_INLINE Triple<Real, Zero, Zero> triple(Real) const {
    return {Real(1.0f), Zero{}, Zero{}};
  }
};

template <template <class> class GType>
constexpr bool kIsAlone = false;
template <>
inline constexpr bool kIsAlone<Alone> = true;

// The pair of activations of a variant, with the math M still to be chosen.
template <template <class> class FType, template <class> class GType>
struct Gate {
  template <class M>
  using F = FType<M>;
  template <class M>
  using G = GType<M>;
  static constexpr bool kAlone = kIsAlone<GType>;
};

#define FUSED_ACTS_COMMON_CASE(name, f, g, parametric_f) \
  case Variant::name:                                    \
    return visitor(Gate<f, g>{});
#define FUSED_ACTS_CASE(name, f, g, parametric_f) \
  case Variant::name:                             \
    return visitor(Gate<parametric_f, g>{});

constexpr bool is_common(Variant variant) {
  switch (variant) {
#define FUSED_ACTS_TRUE(name, ...) case Variant::name:
    FUSED_ACTS_COMMON_VARIANTS(FUSED_ACTS_TRUE)
    FUSED_ACTS_COMMON_ACTIVATIONS(FUSED_ACTS_TRUE)
#undef FUSED_ACTS_TRUE
    return true;
    default:
      return false;
  }
}

constexpr bool is_alone(Variant variant) { return variant >= Variant::kActivations; }

// Calls visitor(Gate<f, g>{}) for one of the common ones.
template <class Visitor>
auto visit_common_variant(Variant variant, Visitor&& visitor) {
  switch (variant) {
    FUSED_ACTS_COMMON_VARIANTS(FUSED_ACTS_COMMON_CASE)
    FUSED_ACTS_COMMON_ACTIVATIONS(FUSED_ACTS_COMMON_CASE)
    default:
      __builtin_unreachable();  // callers ask is_common
  }
}

// Calls visitor(Gate<f with its parameter, g>{}) for any variant; also within a kernel.
template <class Visitor>
FUSED_ACTS_INLINE auto visit_variant(Variant variant, Visitor&& visitor) {
  switch (variant) {
    FUSED_ACTS_VARIANTS(FUSED_ACTS_CASE)
    FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_CASE)
    default:
      __builtin_unreachable();  // library.cpp checks the range
  }
}

#undef FUSED_ACTS_COMMON_CASE
#undef FUSED_ACTS_CASE

}  // namespace fused_acts
