#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// Before any header: what is inlined into the loops below must be compiled for the same
// instructions.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")

#include "../general.h"
#include "avx512.h"
#include "general_buffers.h"

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

template <Direction direction, class T, template <class> class Math, class Gate>
void run(const GeneralRun& run) {
  const GeneralRun r = run;
  const auto step = [&](int64_t i, auto access) __attribute__((always_inline)) {
    using A = decltype(access);
    using Real = F32xN<A::kRegisters>;
    const General<Gate, Math<Real>> unit(
        load_at<A, float>(access, r.parameter, i), Real(static_cast<float>(r.limit)),
        load_at<A, float>(access, r.gate_bias, i), load_at<A, float>(access, r.up_bias, i));
    const Real gate = load_at<A, T>(access, r.gate, i), up = load_at<A, T>(access, r.up, i);
    if constexpr (direction == Direction::kForward) {
      store_at<T>(access, r.out, i, unit.forward(gate, up));
    } else if constexpr (direction == Direction::kBackward) {
      const auto grads = unit.backward(load_at<A, T>(access, r.grad_out, i), gate, up);
      store_at<T>(access, r.out, i, grads.product);
      store_at<T>(access, r.grad_gate, i, grads.gate);
      store_at<T>(access, r.grad_up, i, grads.up);
      add_at(access, r.gate_sum, i, grads.gate);
      add_at(access, r.up_sum, i, grads.up);
      add_at(access, r.parameter_sum, i, grads.parameter);
    } else {
      const auto grads = unit.second(load_at<A, T>(access, r.grad_out, i), gate, up,
                                     load_at<A, T>(access, r.gate_tangent, i),
                                     load_at<A, T>(access, r.up_tangent, i));
      store_at<T>(access, r.out, i, grads.grad_out);
      store_at<T>(access, r.grad_gate, i, grads.gate);
      store_at<T>(access, r.grad_up, i, grads.up);
    }
  };
  // registers in step; second derivatives need many of them
  constexpr int kTogether = direction == Direction::kForward ? 4 : 2;
  int64_t i = 0;
  for (; i + kTogether * kLanes <= r.n; i += kTogether * kLanes) step(i, Whole<kTogether, false>{});
  for (; i < r.n; i += kLanes) step(i, Partial(std::min(r.n - i, kLanes)));
}

template <Direction direction, class Gate>
GeneralLoop loop_for(DType dtype) {
  constexpr GeneralLoop kFloat32 = run<direction, float, Math32, Gate>;
  switch (dtype) {
    case DType::kFloat32:
      return kFloat32;
    case DType::kFloat16:  // not worth loops of its own but for activations alone
      if constexpr (Gate::kAlone && direction != Direction::kSecond)
        return run<direction, Float16, Math16, Gate>;
      return [](const GeneralRun& run) { run_in_buffers<Float16>(direction, run, kFloat32); };
    default:
      return run<direction, BFloat16ByHand, Math16, Gate>;
  }
}

}  // namespace

GeneralLoop avx512_general_loop(Direction direction, Variant variant, DType dtype) {
  return visit_variant(variant, [&](auto gate) -> GeneralLoop {
    using Gate = decltype(gate);
    switch (direction) {
      case Direction::kForward:
        return loop_for<Direction::kForward, Gate>(dtype);
      case Direction::kBackward:
        return loop_for<Direction::kBackward, Gate>(dtype);
      default:
        return loop_for<Direction::kSecond, Gate>(dtype);
    }
  });
}

}  // namespace fused_acts::cpu

#else

#include "dense.h"

namespace fused_acts::cpu {
GeneralLoop avx512_general_loop(Direction, Variant, DType) { return nullptr; }
}  // namespace fused_acts::cpu

#endif
