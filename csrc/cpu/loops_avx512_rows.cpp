// The row loops for AVX-512. No symbol but the last function leaves this file.
#include "cpu/isa.h"

#ifdef FUSED_ACTS_HAS_AVX512

// clang-format off: before the headers that it is for
#include "cpu/target_avx512.h"
// clang-format on

#include "cpu/access_avx512.h"
#include "cpu/staging.h"
#include "math/unit.h"

namespace fused_acts::cpu {
namespace {

template <class Access, class T>
FUSED_ACTS_INLINE auto load_at(const Access& access, const void* data, int64_t i) {
  return load(access, static_cast<const T*>(data) + i);
}
template <class T, class Access, class Reals>
FUSED_ACTS_INLINE void store_at(const Access& access, void* data, int64_t i, Reals x) {
  if (data) store(access, static_cast<T*>(data) + i, x);
}
template <class Access, class Reals>
FUSED_ACTS_INLINE void add_at(const Access& access, void* sum, int64_t i, Reals x) {
  if (sum) store_at<float>(access, sum, i, load_at<Access, float>(access, sum, i) + x);
}

template <class T, class Access>
FUSED_ACTS_INLINE auto load_operands(const Access& access, const RowRun& r, int64_t i) {
  using Operands = Pair<Access::kRegisters>;
  return r.pairs
             ? load_pairs(access, static_cast<const T*>(r.gate) + 2 * i)
             : Operands{load_at<Access, T>(access, r.gate, i), load_at<Access, T>(access, r.up, i)};
}
template <class T, class Access, class Reals>
FUSED_ACTS_INLINE void store_gradients(const Access& access, const RowRun& r, int64_t i, Reals gate,
                                       Reals up) {
  if (!r.pairs) {
    store_at<T>(access, r.grad_gate, i, gate);
    store_at<T>(access, r.grad_up, i, up);
  } else if (r.grad_gate) {
    store_pairs(access, static_cast<T*>(r.grad_gate) + 2 * i, gate, up);
  }
}

template <Direction direction, class T, template <class> class Math, class Unit>
void run(const RowRun& run) {
  const RowRun r = run;
  const auto step = [&](int64_t i, auto access) FUSED_ACTS_SIMD {
    using A = decltype(access);
    using Real = F32xN<A::kRegisters>;
    const GatedUnit<Unit, Math<Real>> unit(
        load_at<A, float>(access, r.parameter, i), Real(static_cast<float>(r.limit)),
        load_at<A, float>(access, r.gate_bias, i), load_at<A, float>(access, r.up_bias, i));
    const auto [gate, up] = load_operands<T>(access, r, i);
    if constexpr (direction == Direction::kForward) {
      store_at<T>(access, r.out, i, unit.forward(gate, up));
    } else if constexpr (direction == Direction::kBackward) {
      const auto grads = unit.backward(load_at<A, T>(access, r.grad_out, i), gate, up);
      store_at<T>(access, r.out, i, grads.product);
      store_gradients<T>(access, r, i, grads.gate, grads.up);
      add_at(access, r.gate_sum, i, grads.gate);
      add_at(access, r.up_sum, i, grads.up);
      add_at(access, r.parameter_sum, i, grads.parameter);
    } else {
      const auto grads = unit.double_backward(load_at<A, T>(access, r.grad_out, i), gate, up,
                                              load_at<A, T>(access, r.gate_tangent, i),
                                              load_at<A, T>(access, r.up_tangent, i));
      store_at<T>(access, r.out, i, grads.grad_out);
      store_gradients<T>(access, r, i, grads.gate, grads.up);
    }
  };
  // registers in step; second derivatives need many of them
  constexpr int kUnroll = direction == Direction::kForward ? 4 : 2;
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= r.n; i += kUnroll * kLanes) step(i, Full<kUnroll, false>{});
  for (; i < r.n; i += kLanes) step(i, Masked(r.n - i < kLanes ? r.n - i : kLanes));
}

template <Direction direction, class Unit>
RowLoop loop_for(DType dtype) {
  constexpr RowLoop kFloat32 = run<direction, float, Math32, Unit>;
  switch (dtype) {
    case DType::kFloat32:
      return kFloat32;
    case DType::kFloat16:  // not worth loops of its own but for activations
      if constexpr (Unit::kIsUnary && direction != Direction::kDoubleBackward)
        return run<direction, Float16, Math16, Unit>;
      return [](const RowRun& run) { run_in_buffers<Float16>(direction, run, kFloat32); };
    default:
      return run<direction, BFloat16ByHand, Math16, Unit>;
  }
}

}  // namespace

RowLoop avx512_row_loop(Direction direction, Variant variant, DType dtype) {
  return visit_variant(variant, [&](auto unit) -> RowLoop {
    using Unit = decltype(unit);
    switch (direction) {
      case Direction::kForward:
        return loop_for<Direction::kForward, Unit>(dtype);
      case Direction::kBackward:
        return loop_for<Direction::kBackward, Unit>(dtype);
      default:
        return loop_for<Direction::kDoubleBackward, Unit>(dtype);
    }
  });
}

}  // namespace fused_acts::cpu

FUSED_ACTS_END_TARGET

#endif
