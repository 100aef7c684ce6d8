// The way of registers from and to memory in every storage type. Only for the loops' files.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/vec.h"

namespace fused_acts {
namespace {

// All lanes of K registers.
template <class IsaType, int K>
struct Full {
  using Isa = IsaType;
  static constexpr int kRegisters = K;
  static constexpr int64_t n = Isa::kLanes;

  template <class Register, class T>
  FUSED_ACTS_INLINE Register read(const T* p, int64_t) const {
    Register x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  template <class Register, class T>
  FUSED_ACTS_INLINE void write(T* p, int64_t, Register x) const {
    std::memcpy(p, &x, sizeof x);
  }
};

// The same, but written past the caches.
template <class Isa, int K>
struct PastCaches : Full<Isa, K> {
  template <class Register, class T>
  FUSED_ACTS_INLINE void write(T* p, int64_t, Register x) const {
    Isa::stream(p, x);
  }
};

// The first n lanes of one register.
template <class IsaType>
struct Part {
  using Isa = IsaType;
  static constexpr int kRegisters = 1;
  int64_t n;

  template <class Register, class T>
  FUSED_ACTS_INLINE Register read(const T* p, int64_t count) const {
    return Isa::read(p, count, Register{});
  }
  template <class Register, class T>
  FUSED_ACTS_INLINE void write(T* p, int64_t count, Register x) const {
    Isa::write(p, count, x);
  }
};

// The first n elements of a register, where no instruction reads or writes them alone.
template <class Register, class T>
FUSED_ACTS_INLINE Register read_through_buffer(const T* p, int64_t n) {
  Register x;
  if (n * sizeof(T) == sizeof x) {
    std::memcpy(&x, p, sizeof x);
  } else {
    T buffer[sizeof x / sizeof(T)] = {};
    std::memcpy(buffer, p, n * sizeof(T));
    std::memcpy(&x, buffer, sizeof x);
  }
  return x;
}
template <class Register, class T>
FUSED_ACTS_INLINE void write_through_buffer(T* p, int64_t n, Register x) {
  if (n * sizeof(T) == sizeof x) {
    std::memcpy(p, &x, sizeof x);
  } else {
    T buffer[sizeof x / sizeof(T)];
    std::memcpy(buffer, &x, sizeof x);
    std::memcpy(p, buffer, n * sizeof(T));
  }
}

template <class Access>
using RealOf = typename Access::Isa::template Real<Access::kRegisters>;

// Register i of K; scalar loops have a number in its place.
template <class Isa, int K>
FUSED_ACTS_INLINE auto& at(Vec<Isa, K>& x, int i) {
  return x.v[i];
}
FUSED_ACTS_INLINE float& at(float& x, int) { return x; }
FUSED_ACTS_INLINE double& at(double& x, int) { return x; }

// Registers that hold neighbours.
template <class Access, class T>
FUSED_ACTS_INLINE auto load(const Access& access, const T* p) {
  using Isa = typename Access::Isa;
  RealOf<Access> x;
  FUSED_ACTS_EACH(i, Access::kRegisters) {
    const T* source = p + i * Isa::kLanes;
    if constexpr (std::is_floating_point_v<T>) {
      at(x, i) = access.template read<typename Isa::Float>(source, access.n);
    } else {
      at(x, i) = Isa::widen(access.template read<typename Isa::Half>(source, access.n), T{});
    }
  }
  return x;
}
template <class Access, class T, class Real>
FUSED_ACTS_INLINE void store(const Access& access, T* p, Real x) {
  using Isa = typename Access::Isa;
  FUSED_ACTS_EACH(i, Access::kRegisters) {
    T* target = p + i * Isa::kLanes;
    if constexpr (std::is_floating_point_v<T>) {
      access.write(target, access.n, at(x, i));
    } else {
      access.write(target, access.n, Isa::narrow(at(x, i), T{}));
    }
  }
}

// Two registers of 2*n elements that alternate between them.
template <class Access, class T, class Float>
FUSED_ACTS_INLINE void load_two(const Access& access, const T* p, Float* even, Float* odd) {
  using Isa = typename Access::Isa;
  const int64_t n = 2 * access.n;
  if constexpr (std::is_floating_point_v<T>) {
    constexpr int64_t kLanes = Isa::kLanes;
    Isa::split(access.template read<Float>(p, n < kLanes ? n : kLanes),
               access.template read<Float>(p + kLanes, n < kLanes ? 0 : n - kLanes), even, odd);
  } else {
    const auto words = access.template read<typename Isa::Words>(p, n);
    *even = Isa::even(words, T{});
    *odd = Isa::odd(words, T{});
  }
}
template <class Access, class T, class Float>
FUSED_ACTS_INLINE void store_two(const Access& access, T* p, Float even, Float odd) {
  using Isa = typename Access::Isa;
  const int64_t n = 2 * access.n;
  if constexpr (std::is_floating_point_v<T>) {
    constexpr int64_t kLanes = Isa::kLanes;
    Float first, second;
    Isa::join(even, odd, &first, &second);
    access.write(p, n < kLanes ? n : kLanes, first);
    access.write(p + kLanes, n < kLanes ? 0 : n - kLanes, second);
  } else {
    access.write(p, n, Isa::alternate(even, odd, T{}));
  }
}

// Elements in an order of their own, the same for all operands of a type: bfloat16 has no shorter
// way into registers than two at a time.
template <class Access, class T>
FUSED_ACTS_INLINE auto load_in_any_order(const Access& access, const T* p) {
  if constexpr (std::is_same_v<T, BFloat16> && Access::kRegisters % 2 == 0) {
    RealOf<Access> x;
    FUSED_ACTS_EACH(i, Access::kRegisters / 2)
    load_two(access, p + 2 * i * Access::Isa::kLanes, &at(x, 2 * i), &at(x, 2 * i + 1));
    return x;
  } else {
    return load(access, p);
  }
}
template <class Access, class T, class Real>
FUSED_ACTS_INLINE void store_in_any_order(const Access& access, T* p, Real x) {
  if constexpr (std::is_same_v<T, BFloat16> && Access::kRegisters % 2 == 0) {
    FUSED_ACTS_EACH(i, Access::kRegisters / 2)
    store_two(access, p + 2 * i * Access::Isa::kLanes, at(x, 2 * i), at(x, 2 * i + 1));
  } else {
    store(access, p, x);
  }
}

// Pairs of neighbours, as two operands.
template <class Access, class T, class Real = RealOf<Access>>
FUSED_ACTS_INLINE void load_pairs(const Access& access, const T* p, Real* even, Real* odd) {
  FUSED_ACTS_EACH(i, Access::kRegisters)
  load_two(access, p + 2 * i * Access::Isa::kLanes, &at(*even, i), &at(*odd, i));
}
template <class Access, class T, class Real>
FUSED_ACTS_INLINE void store_pairs(const Access& access, T* p, Real even, Real odd) {
  FUSED_ACTS_EACH(i, Access::kRegisters)
  store_two(access, p + 2 * i * Access::Isa::kLanes, at(even, i), at(odd, i));
}

}  // namespace
}  // namespace fused_acts
