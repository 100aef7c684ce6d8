// The loop of the gated units: over instruction set, direction, storage type, unit and options.
// Only for the files that compile it for an instruction set.
#pragma once

#include <cstdint>

#include "cpu/access.h"
#include "cpu/loops.h"

#ifndef FUSED_ACTS_SIMD  // what a lambda needs to be inlined, see target_*.h
#define FUSED_ACTS_SIMD __attribute__((always_inline, nothrow))
#endif

namespace fused_acts::cpu {
namespace {

// One row of a block.
template <class T>
struct Row {
  const T *gate, *up, *grad_out, *gate_tangent, *up_tangent;
  T *out, *grad_gate, *grad_up;

  FUSED_ACTS_INLINE Row(const Block& b, int64_t row)
      : gate(at(b.gate, row)),
        up(at(b.up, row)),
        grad_out(at(b.grad_out, row)),
        gate_tangent(at(b.gate_tangent, row)),
        up_tangent(at(b.up_tangent, row)),
        out(at(b.out, row)),
        grad_gate(at(b.grad_gate, row)),
        grad_up(at(b.grad_up, row)) {}

 private:
  static FUSED_ACTS_INLINE T* at(const Matrix& matrix, int64_t row) {
    return matrix.data ? static_cast<T*>(matrix.data) + row * matrix.row_stride : nullptr;
  }
};

// An operand that is read when a Real is wanted.
template <class Real, class Read>
struct Later {
  Read read;
  FUSED_ACTS_INLINE operator Real() const { return read(); }
};
template <class Real, class Read>
FUSED_ACTS_INLINE Later<Real, Read> later(Read read) {
  return {read};
}

// How many registers go through a computation in step: with few the processor waits for results,
// and with too many they are kept in memory, which costs less than to wait up to here.
template <class Isa, class T>
constexpr int registers_in_step(Direction direction, Options options) {
  if (direction == Direction::kDoubleBackward) return 1;
  if (Isa::kRegisters >= 32)
    return direction == Direction::kBackward && options == Options::kRows ? 2 : 4;
  // two registers are what bfloat16 has its shortest way for
  return std::is_same_v<T, BFloat16> && options != Options::kRows && Isa::kLanes > 1 ? 2 : 1;
}

template <class Isa, class T, template <class> class Math, class Unit, Direction direction,
          Options options>
struct GluLoop {
  using Lane = typename Isa::Lane;
  static constexpr int64_t kLanes = Isa::kLanes;
  static constexpr int kUnroll = registers_in_step<Isa, T>(direction, options);
  // Numbers fit the elements in any order.
  static constexpr bool kAnyOrder = options != Options::kRows;
  static constexpr bool kHasPairs = options != Options::kNone && !Unit::kIsUnary;

  static void run(const Block& block) {
    const Block b = block;
    for (int64_t r = 0; r < b.rows; ++r) {
      const Row<T> row(b, r);
      bool streams = false;
      int64_t i = 0, head = 0;
      if constexpr (Isa::kStreams) {
        streams = b.past_caches && aligned_alike(b, row);
        if (streams) head = to_boundary(direction == Direction::kForward ? row.out : row.grad_gate);
      }
      for (int64_t end = head < b.cols ? head : b.cols;; end = b.cols) {
        if constexpr (kLanes > 1)
          for (; i < end; i += kLanes < end - i ? kLanes : end - i)
            run_step(b, row, i, false, Part<Isa>{kLanes < end - i ? kLanes : end - i});
        if (i == b.cols) break;
        constexpr int64_t kStep = kUnroll * kLanes;
        for (; i + kStep <= b.cols; i += kStep) run_step(b, row, i, streams, Full<Isa, kUnroll>{});
      }
    }
    if constexpr (Isa::kStreams)
      if (b.past_caches) Isa::fence();
  }

 private:
  // Elements to the next address that can be written past the caches.
  static FUSED_ACTS_INLINE int64_t to_boundary(const T* p) {
    return (-reinterpret_cast<uintptr_t>(p) & (sizeof(typename Isa::Float) - 1)) / sizeof(T);
  }
  static FUSED_ACTS_INLINE bool aligned_alike(const Block& b, const Row<T>& row) {
    if (direction == Direction::kForward) return true;
    const int64_t first = to_boundary(row.grad_gate);
    return !b.pairs && (Unit::kIsUnary || first == to_boundary(row.grad_up)) &&
           (!row.out || first == to_boundary(row.out));
  }

  template <class Access>
  static FUSED_ACTS_INLINE void run_step(const Block& b, const Row<T>& row, int64_t i, bool streams,
                                         Access access) {
    using Real = RealOf<Access>;
    const bool pairs = kHasPairs && b.pairs;
    const bool special = streams || (direction != Direction::kForward && row.out);
    const auto read = [&](const T* p) FUSED_ACTS_SIMD {
      return !kAnyOrder || pairs ? load(access, p + i) : load_in_any_order(access, p + i);
    };
    Real gate, up(0.0f);
    if (pairs) {
      load_pairs(access, row.gate + 2 * i, &gate, &up);
    } else {
      gate = read(row.gate);
    }
    const auto read_up = [&]() FUSED_ACTS_SIMD {
      if constexpr (Unit::kIsUnary) return up;
      return pairs ? up : read(row.up);
    };
    auto unit = unit_at(b, i, access);
    const auto put = [&](auto to, T* p, Real x) FUSED_ACTS_SIMD {
      !kAnyOrder || pairs ? store(to, p + i, x) : store_in_any_order(to, p + i, x);
    };
    const auto write = [&](auto to, Real out, Real grad_gate, Real grad_up) FUSED_ACTS_SIMD {
      if constexpr (direction == Direction::kForward) return put(to, row.out, out);
      if (pairs) {
        store_pairs(to, row.grad_gate + 2 * i, grad_gate, grad_up);
      } else {
        put(to, row.grad_gate, grad_gate);
        if constexpr (!Unit::kIsUnary) put(to, row.grad_up, grad_up);
      }
    };
    // one test for all that is not always there
    const auto finish = [&](Real out, Real grad_gate, Real grad_up) FUSED_ACTS_SIMD {
      if (!special) return write(access, out, grad_gate, grad_up);
      const auto write_all = [&](auto to) FUSED_ACTS_SIMD {
        if (direction != Direction::kForward && row.out) {
          T* product = row.out;
          asm("" : "+r"(product));  // or the loop moves a pointer along for it, always
          put(to, product, out);
        }
        write(to, out, grad_gate, grad_up);
      };
      if constexpr (Isa::kStreams && std::is_same_v<Access, Full<Isa, kUnroll>>) {
        if (streams) return write_all(PastCaches<Isa, kUnroll>{});
      }
      write_all(access);
    };
    if constexpr (direction == Direction::kForward) {
      const Real none(0.0f);
      finish(unit.forward(gate, later<Real>(read_up)), none, none);
    } else if constexpr (direction == Direction::kBackward) {
      auto grads = unit.backward(later<Real>([&]() FUSED_ACTS_SIMD { return read(row.grad_out); }),
                                 gate, later<Real>(read_up));
      finish(grads.product, grads.gate, grads.up);
      if constexpr (options == Options::kRows) {
        add(access, b.sums[0], i, grads.gate);
        if constexpr (!Unit::kIsUnary) add(access, b.sums[1], i, grads.up);
        if constexpr (Unit::kHasParameter) add(access, b.sums[2], i, grads.parameter);
        if constexpr (Unit::kHasSecond) add(access, b.sums[3], i, grads.second);
        static_assert(kUnroll * kLanes <= kMostInStep);
        add(access, b.weight_sums, 0, grads.weight);
      }
    } else {
      Real gate_tangent, up_tangent(0.0f);
      if (pairs) {
        load_pairs(access, row.gate_tangent + 2 * i, &gate_tangent, &up_tangent);
      } else {
        gate_tangent = read(row.gate_tangent);
        if constexpr (!Unit::kIsUnary) up_tangent = read(row.up_tangent);
      }
      auto grads =
          unit.double_backward(read(row.grad_out), gate, read_up(), gate_tangent, up_tangent);
      finish(grads.grad_out, grads.gate, grads.up);
    }
  }

  template <class Access>
  static FUSED_ACTS_INLINE auto unit_at(const Block& b, int64_t i, const Access& access) {
    using Real = RealOf<Access>;
    const auto number = [](double x) FUSED_ACTS_SIMD { return Real(static_cast<Lane>(x)); };
    Numbers<Real> numbers{number(b.scalars[0]), number(b.scalars[1]), number(b.limit),
                          number(b.weight)};
    Real gate_bias(0.0f), up_bias(0.0f);
    if constexpr (options == Options::kRows) {
      const auto vector = [&](const void* p) FUSED_ACTS_SIMD {
        return load(access, static_cast<const Lane*>(p) + i);
      };
      if constexpr (Unit::kHasParameter) numbers.parameter = vector(b.parameters[0]);
      if constexpr (Unit::kHasSecond) numbers.second = vector(b.parameters[1]);
      gate_bias = vector(b.gate_bias);
      if constexpr (!Unit::kIsUnary) up_bias = vector(b.up_bias);
    }
    return GatedUnit<Unit, Math<Real>, options>(numbers, gate_bias, up_bias);
  }

  template <class Access, class Real>
  static FUSED_ACTS_INLINE void add(const Access& access, void* sum, int64_t i, Real x) {
    Lane* p = static_cast<Lane*>(sum) + i;
    if (sum) store(access, p, load(access, p) + x);
  }
};

template <class Isa, class T, template <class> class Math, Direction direction, Options options>
Loop loop_of(Variant variant) {
  return visit_variant(variant, [](auto unit) -> Loop {
    using Unit = decltype(unit);
    constexpr Options least = kTakesNumbers<Unit> ? options : Options::kRows;
    return GluLoop<Isa, T, Math, Unit, direction, least>::run;
  });
}

template <class Isa, class From, class To>
void convert(const void* source_data, void* target_data, int64_t n) {
  const From* source = static_cast<const From*>(source_data);
  To* target = static_cast<To*>(target_data);
  int64_t i = 0;
  for (const Full<Isa, 1> full{}; i + Isa::kLanes <= n; i += Isa::kLanes)
    store(full, target + i, load(full, source + i));
  if constexpr (Isa::kLanes > 1)
    if (const Part<Isa> part{n - i}; i < n) store(part, target + i, load(part, source + i));
}

template <class Isa, class T, template <class> class Math, template <class> class CloseMath>
Loop glu_loop(Direction direction, Options options, Variant variant) {
  if (direction == Direction::kDoubleBackward)
    return loop_of<Isa, T, CloseMath, Direction::kDoubleBackward, Options::kRows>(variant);
  const bool forward = direction == Direction::kForward;
  switch (options) {
    case Options::kNone:
      return visit_plain_variant(variant, [&](auto unit) -> Loop {
        using Unit = decltype(unit);
        return forward ? GluLoop<Isa, T, Math, Unit, Direction::kForward, Options::kNone>::run
                       : GluLoop<Isa, T, Math, Unit, Direction::kBackward, Options::kNone>::run;
      });
    case Options::kLimit:
      // to most units what a parameter and a limit are
      return visit_variant(variant, [&](auto unit) -> Loop {
        using Unit = decltype(unit);
        constexpr Options least = !kTakesNumbers<Unit>     ? Options::kRows
                                  : kHasOwnParameter<Unit> ? Options::kLimit
                                                           : Options::kNumbers;
        return forward ? GluLoop<Isa, T, Math, Unit, Direction::kForward, least>::run
                       : GluLoop<Isa, T, Math, Unit, Direction::kBackward, least>::run;
      });
    case Options::kNumbers:
      return forward ? loop_of<Isa, T, Math, Direction::kForward, Options::kNumbers>(variant)
                     : loop_of<Isa, T, Math, Direction::kBackward, Options::kNumbers>(variant);
    default:
      return forward ? loop_of<Isa, T, Math, Direction::kForward, Options::kRows>(variant)
                     : loop_of<Isa, T, Math, Direction::kBackward, Options::kRows>(variant);
  }
}

}  // namespace
}  // namespace fused_acts::cpu
