// The table of gated units: out = f(gate) * g(up). Torch-free.
//
// A variant is one row; kernels, launchers and the Python module iterate over the table and know no
// names.
#pragma once

#include "activations.h"

// X(name, f, g)
#define FUSED_ACTS_VARIANTS(X)      \
  X(glu, Sigmoid, Identity)         \
  X(bilinear, Identity, Identity)   \
  X(reglu, Relu, Identity)          \
  X(geglu, Gelu, Identity)          \
  X(geglu_tanh, GeluTanh, Identity) \
  X(swiglu, Swish, Identity)

namespace fused_acts {

enum class Variant : int {
#define FUSED_ACTS_ENUMERATOR(name, f, g) name,
  FUSED_ACTS_VARIANTS(FUSED_ACTS_ENUMERATOR)
#undef FUSED_ACTS_ENUMERATOR
      kCount
};

// The pair of activations of a variant, with the math M still to be chosen.
template <template <class> class FType, template <class> class GType>
struct Gate {
  template <class M>
  using F = FType<M>;
  template <class M>
  using G = GType<M>;
};

// Calls visitor(Gate<f, g>{}) for the given variant.
template <class Visitor>
auto visit_variant(Variant variant, Visitor&& visitor) {
  switch (variant) {
#define FUSED_ACTS_CASE(name, f, g) \
  case Variant::name:               \
    return visitor(Gate<f, g>{});
    FUSED_ACTS_VARIANTS(FUSED_ACTS_CASE)
#undef FUSED_ACTS_CASE
    default:
      __builtin_unreachable();  // library.cpp checks the range
  }
}

}  // namespace fused_acts
