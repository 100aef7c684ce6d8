// The flat kernels, forward and backward, for any unit, 16- or 32-bit storage type and access.
//
// A thread works on kVectors vectors of a row, all of whose loads are in flight before the first
// use. They lie 128 bytes apart, so that what a warp accesses at once are whole lines of 128 bytes.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/flat_params.h"
#include "cuda/vector.cuh"
#include "math/unit.h"

namespace fused_acts::cuda {

// What is known of a kernel when it is compiled: plain ones know no numbers.
template <class StorageType, Access access, int access_bytes, bool plain>
struct Config {
  using T = StorageType;
  static constexpr bool kPlain = plain;
  static constexpr Options kOptions = plain ? Options::kNone : Options::kWeighted;
  static constexpr bool kInterleaved = access == Access::kInterleaved;
  static constexpr int kBytes = access_bytes;
  static constexpr int kColumns = kBytes / (sizeof(T) * (kInterleaved ? 2 : 1));
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  static constexpr int kLanes = cuda::kLanes<Real>;
  static constexpr int kOutBytes = kColumns * sizeof(T);  // to out and grad_out
  static constexpr int kVectors = vectors_per_thread(access, kBytes, plain);
  // From a vector of a thread to its next.
  static constexpr int kGroup = group_size(kBytes);
  static constexpr int kNextBytes = kGroup * kBytes, kNextOutBytes = kGroup * kOutBytes;
  // After so many columns the compiler finishes what it has begun.
  static constexpr int kFenceBackward = !plain                           ? 2
                                        : kHas32ByteAccesses             ? (kBytes == 32 ? 4 : 2)
                                        : kInterleaved && sizeof(T) == 2 ? 4
                                                                         : 8;
  static constexpr int kFence = !plain                                                    ? 4
                                : !kHas32ByteAccesses || (kBytes == 32 && sizeof(T) == 2) ? 8
                                : kBytes == 32                                            ? 4
                                                                                          : 2;
  // Each architecture has plain kernels of its widest accesses and of 16 bytes, and others of its
  // widest; make_flat_plan asks for no more.
  static constexpr bool kCompiled =
      kBytes == (kHas32ByteAccesses ? 32 : 16) || (plain && kBytes == 16);
};

// Blocks that fit a multiprocessor at least, which bounds the registers of a thread.
constexpr int kMinBlocksForward = 12;
template <class Unit, class C, bool kProduct>
constexpr int kMinBlocksBackward = !C::kPlain && kHasManyValues<Unit> ? 9
                                   : kProduct || C::kBytes == 32      ? 10
                                                                      : 12;

// The first vector of a thread; the others follow in the same row, kGroup vectors apart.
template <class C>
struct Place {
  uint32_t row, vector;

  FUSED_ACTS_DEVICE Place(uint32_t n, const Shape& shape) {
    row = divide(n, shape.threads_per_row);
    vector = n + row * shape.threads_per_row.minus_divisor;
    if (C::kVectors > 1) vector += (vector & ~(C::kGroup - 1u)) * (C::kVectors - 1);
  }
  // Whether the row has the thread's vector v; threads are counted in whole groups.
  FUSED_ACTS_DEVICE bool has_vector(int v, const Shape& shape) const {
    return C::kVectors == 1 || vector < shape.ends[v];
  }
  // bytes: what strides count in
  FUSED_ACTS_DEVICE char* in(char* data, uint32_t stride, int bytes) const {
    return data + static_cast<uint64_t>(row * stride + vector) * bytes;
  }
};

// Never true; asked after every few columns on the way to a store. The compiler then finishes
// these columns before it begins the next, and needs registers for a few at a time only.
FUSED_ACTS_DEVICE bool fence(const Shape& shape, int column, int columns) {
  return column > 0 && column % columns == 0 && shape.threads == ~uint32_t{0} - column;
}

// Gate and up, or gate where there is no up.
template <class Unit, class Pair>
FUSED_ACTS_DEVICE void load_columns(Pair& x, const char* gate, const char* up) {
  if constexpr (Unit::kIsUnary) {
    load(gate, x.gate_vector);
  } else {
    x.load_from(gate, up);
  }
}

// The unit with the numbers of the call.
template <class Unit, class Math, Options options, class T>
FUSED_ACTS_DEVICE GatedUnit<Unit, Math, options> make_unit(const FlatNumbers& numbers) {
  using Real = typename Math::Real;
  const auto parameter = [&](int i) {
    const void* learned = numbers.learned[i];
    if (options == Options::kNone || !learned) return Real(numbers.parameters[i]);
    return Real(number_at<T>(learned, numbers.in_real, 0));
  };
  const Real first = Unit::kHasParameter ? parameter(0) : Real(1.0f);
  const Real second = Unit::kHasSecond ? parameter(1) : Real(1.0f);
  return {{first, second, Real(numbers.limit), Real(numbers.weight)}, Real(0.0f), Real(0.0f)};
}

// The column i of a vector, or the pair of columns i and i + 1 where the arithmetic is in pairs.
template <class T, class Unit, int kColumns, bool kInterleaved>
FUSED_ACTS_DEVICE void forward(const Unit& unit, const GateUp<T, kColumns, kInterleaved>& x, int i,
                               Vector<T, kColumns>& out) {
  using Real = typename Unit::Real;
  set(out, i, unit.forward(x.template gate<Real>(i), x.template up<Real>(i)));
}

// With the product in the place of grad_out.
template <bool kProduct, class T, class Unit, int kColumns, bool kInterleaved>
FUSED_ACTS_DEVICE void backward(const Unit& unit, Vector<T, kColumns>& grad_out,
                                const GateUp<T, kColumns, kInterleaved>& x, int i,
                                GateUp<T, kColumns, kInterleaved>& grad) {
  using Real = typename Unit::Real;
  const auto by =
      unit.backward(get<Real>(grad_out, i), x.template gate<Real>(i), x.template up<Real>(i));
  grad.set_both(i, by.gate, by.up);
  if constexpr (kProduct) set(grad_out, i, by.product);
}

// One column behind the last vector.
template <class Unit, class C>
FUSED_ACTS_DEVICE void forward_tail(const ForwardParams& p) {
  using T = typename C::T;
  const int64_t column = p.tail.begin + threadIdx.x;
  if (blockIdx.x != p.tail.block || column >= p.tail.end) return;
  const int64_t plain = column * sizeof(T), stepped = plain * p.tail.column_step;
  GateUp<T, 1, false> x;
  Vector<T, 1> out;
  load_columns<Unit>(x, p.gate + stepped, p.up + stepped);
  forward(make_unit<Unit, MathOf<T, 1>, C::kOptions, T>(p.numbers), x, 0, out);
  store(out, p.out + plain);
}

template <class Unit, class C, bool kProduct>
FUSED_ACTS_DEVICE void backward_tail(const BackwardParams& p, bool product) {
  using T = typename C::T;
  const int64_t column = p.tail.begin + threadIdx.x;
  if (blockIdx.x != p.tail.block || column >= p.tail.end) return;
  const int64_t plain = column * sizeof(T), stepped = plain * p.tail.column_step;
  GateUp<T, 1, false> x, grad;
  Vector<T, 1> grad_out;
  load_columns<Unit>(x, p.gate + stepped, p.up + stepped);
  load(p.grad_out + plain, grad_out);
  const auto unit = make_unit<Unit, MathOf<T, 1>, C::kOptions, T>(p.numbers);
  backward<kProduct>(unit, grad_out, x, 0, grad);
  grad.store_to(p.grad_gate + stepped, p.grad_up + stepped, true, !Unit::kIsUnary);
  if (product) store(grad_out, p.grad_out + plain);
}

template <class Unit, class C>
__global__ void __launch_bounds__(kBlock, kMinBlocksForward)
    forward_kernel(const __grid_constant__ ForwardParams p) {
  if constexpr (!C::kCompiled) {
    __trap();
  } else {
    using T = typename C::T;
    let_next_kernel_start();
    const uint32_t n = blockIdx.x * kBlock + threadIdx.x;
    const Place<C> place(n, p.shape);
    wait_for_previous_kernel();
    if (n >= p.shape.threads || !place.has_vector(0, p.shape)) return forward_tail<Unit, C>(p);

    const char* gate = place.in(p.gate, p.gate_stride, C::kBytes);
    const char* up = place.in(p.up, p.gate_stride, C::kBytes);
    char* out = place.in(p.out, p.out_stride, C::kOutBytes);

    GateUp<T, C::kColumns, C::kInterleaved> x[C::kVectors];
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      const int offset = v * C::kNextBytes;
      if (v == 0 || place.has_vector(v, p.shape))
        load_columns<Unit>(x[v], gate + offset, up + offset);
    }
    const auto unit = make_unit<Unit, typename C::Math, C::kOptions, T>(p.numbers);
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      Vector<T, C::kColumns> result;
#pragma unroll
      for (int i = 0; i < C::kColumns; i += C::kLanes) {
        if (fence(p.shape, v * C::kColumns + i, C::kFence)) break;
        forward(unit, x[v], i, result);
      }
      if (v == 0 || place.has_vector(v, p.shape)) store(result, out + v * C::kNextOutBytes);
    }
  }
}

// Plain kernels are with and without the product; others have it, and ask whether it is to be
// stored.
template <class Unit, class C, bool kProduct>
__global__ void __launch_bounds__(kBlock, kMinBlocksBackward<Unit, C, kProduct>)
    backward_kernel(const __grid_constant__ BackwardParams p) {
  if constexpr (!C::kCompiled) {
    __trap();
  } else {
    using T = typename C::T;
    let_next_kernel_start();
    const bool product = kProduct && (C::kPlain || p.product);
    const uint32_t n = blockIdx.x * kBlock + threadIdx.x;
    const Place<C> place(n, p.shape);
    wait_for_previous_kernel();
    if (n >= p.shape.threads || !place.has_vector(0, p.shape))
      return backward_tail<Unit, C, kProduct>(p, product);

    const char* gate = place.in(p.gate, p.gate_stride, C::kBytes);
    const char* up = place.in(p.up, p.gate_stride, C::kBytes);
    char* grad_out = place.in(p.grad_out, p.grad_out_stride, C::kOutBytes);
    char* grad_gate = place.in(p.grad_gate, p.grad_gate_stride, C::kBytes);
    char* grad_up = place.in(p.grad_up, p.grad_gate_stride, C::kBytes);

    GateUp<T, C::kColumns, C::kInterleaved> x[C::kVectors];
    Vector<T, C::kColumns> seed[C::kVectors];
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      if (v == 0 || place.has_vector(v, p.shape)) {
        load_columns<Unit>(x[v], gate + v * C::kNextBytes, up + v * C::kNextBytes);
        load(grad_out + v * C::kNextOutBytes, seed[v]);
      }
    }
    const auto unit = make_unit<Unit, typename C::Math, C::kOptions, T>(p.numbers);
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      GateUp<T, C::kColumns, C::kInterleaved> grad;
#pragma unroll
      for (int i = 0; i < C::kColumns; i += C::kLanes) {
        if (fence(p.shape, v * C::kColumns + i, C::kFenceBackward)) break;
        backward<kProduct>(unit, seed[v], x[v], i, grad);
      }
      const int offset = v * C::kNextBytes;
      if (v == 0 || place.has_vector(v, p.shape)) {
        grad.store_to(grad_gate + offset, grad_up + offset, true, !Unit::kIsUnary);
        if (product) store(seed[v], grad_out + v * C::kNextOutBytes);
      }
    }
  }
}

}  // namespace fused_acts::cuda
