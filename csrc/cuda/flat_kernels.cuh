// The flat kernels, forward and backward, for any unit, storage type and access.
//
// A thread works on kVectors vectors of a row, all of whose loads are in flight before the first
// use. They lie 128 bytes apart, so that what a warp accesses at once are whole lines of 128 bytes.
#pragma once

#include "cuda/dependent_launch.cuh"
#include "cuda/flat_params.h"
#include "cuda/vector.cuh"

namespace fused_acts::cuda {

#ifdef __CUDA_ARCH__
constexpr int kArchitecture = __CUDA_ARCH__;
#else
constexpr int kArchitecture = 0;
#endif

// What is known of a kernel when it is compiled.
template <class StorageType, Access access, int access_bytes, bool backward>
struct Config {
  using T = StorageType;
  static constexpr bool kNarrow = is_narrow(access_bytes);
  using Index = std::conditional_t<kNarrow, uint64_t, uint32_t>;
  static constexpr bool kElement = access == Access::kElement;
  static constexpr bool kInterleaved = access == Access::kInterleaved;
  static constexpr int kBytes = access_bytes;
  static constexpr int kColumns = kBytes / (sizeof(T) * (kInterleaved ? 2 : 1));
  static constexpr int kLanes = cuda::kLanes<typename MathOf<T, kColumns>::Real>;
  static constexpr int kOutBytes = kColumns * sizeof(T);  // to out and grad_out
  static constexpr int kVectors = vectors_per_thread(access, kBytes);
  // From a vector of a thread to its next.
  static constexpr int kGroup = group_size(kBytes);
  static constexpr int kNextBytes = kGroup * kBytes, kNextOutBytes = kGroup * kOutBytes;
  // Blocks that fit a multiprocessor at least, which bounds the registers of a thread.
  static constexpr int kMinBlocks = sizeof(T) == 8 ? 6 : backward && kBytes == 32 ? 10 : 12;
  static constexpr int kMinBlocksWithProduct = kMinBlocks < 10 ? kMinBlocks : 10;
  static constexpr int kFence =
      kArchitecture >= 1000 && (backward || kBytes < 32 || sizeof(T) > 2) ? 4 : 8;
  // 32-byte accesses are planned where the code was compiled for sm_100 or later.
  static constexpr bool kCompiled = kBytes < 32 || kArchitecture >= 1000;
};

FUSED_ACTS_DEVICE uint32_t divide(uint32_t n, const Divider<uint32_t>& d) {
  return static_cast<uint32_t>((static_cast<uint64_t>(n) * d.magic) >> d.shift);
}
FUSED_ACTS_DEVICE uint64_t divide(uint64_t n, const Divider<uint64_t>& d) {
  return __umul64hi(n << 1, d.magic) >> d.shift;
}

// The first vector of a thread; the others follow in the same row, kGroup vectors apart.
template <class C>
struct Place {
  using Index = typename C::Index;
  Index row, vector;

  FUSED_ACTS_DEVICE Place(Index n, const Shape<Index>& shape) {
    row = divide(n, shape.threads_per_row);
    vector = n + row * shape.threads_per_row.minus_divisor;
    if (C::kVectors > 1) vector += (vector & ~Index{C::kGroup - 1}) * (C::kVectors - 1);
  }
  // Whether the row has the thread's vector v; threads are counted in whole groups.
  FUSED_ACTS_DEVICE bool has_vector(int v, const Shape<Index>& shape) const {
    return C::kVectors == 1 || vector < shape.ends[v];
  }
  // bytes: what strides count in; step: from one vector to the next
  FUSED_ACTS_DEVICE char* in(char* data, Index stride, int bytes, int step = 1) const {
    return data + static_cast<uint64_t>(row * stride + vector * step) * bytes;
  }
};

// Never true; asked after every kFence columns on the way to a store. The compiler then finishes
// these columns before it begins the next, and needs registers for a few at a time only.
template <class C>
FUSED_ACTS_DEVICE bool fence(const Shape<typename C::Index>& shape, int column) {
  return column > 0 && column % C::kFence == 0 && shape.threads == ~typename C::Index{0} - column;
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

// The column i of a vector, or the pair of columns i and i + 1 where the arithmetic is in pairs.
template <class Unit, class T, int kColumns, bool kInterleaved>
FUSED_ACTS_DEVICE void forward(const GateUp<T, kColumns, kInterleaved>& x, int i,
                               Vector<T, kColumns>& out) {
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  const typename Unit::template F<Math> f;
  const typename Unit::template G<Math> g;
  set(out, i, f.value(x.template gate<Real>(i)) * g.value(x.template up<Real>(i)));
}

// kProduct: whether the product takes the place of grad_out.
template <class Unit, bool kProduct, class T, int kColumns, bool kInterleaved>
FUSED_ACTS_DEVICE void backward(Vector<T, kColumns>& grad_out,
                                const GateUp<T, kColumns, kInterleaved>& x, int i,
                                GateUp<T, kColumns, kInterleaved>& grad) {
  using Math = MathOf<T, kColumns>;
  using Real = typename Math::Real;
  const typename Unit::template F<Math> f;
  const typename Unit::template G<Math> g;
  const auto f_dual = f.dual(x.template gate<Real>(i));
  const auto g_dual = g.dual(x.template up<Real>(i));
  const Real seed = get<Real>(grad_out, i);
  const Real grad_gate = times(f_dual.derivative, seed * g_dual.value);
  const Real grad_up = times(g_dual.derivative, seed * f_dual.value);
  grad.set_both(i, grad_gate, grad_up);
  if constexpr (kProduct) set(grad_out, i, f_dual.value * g_dual.value);
}

// One column behind the last vector.
template <class Unit, class T, class Index>
FUSED_ACTS_DEVICE void forward_tail(const ForwardParams<Index>& p) {
  const int64_t column = p.tail.begin + threadIdx.x;
  if (blockIdx.x != p.tail.block || column >= p.tail.end) return;
  const int64_t plain = column * sizeof(T), stepped = plain * p.tail.column_step;
  GateUp<T, 1, false> x;
  Vector<T, 1> out;
  load_columns<Unit>(x, p.gate + stepped, p.up + stepped);
  forward<Unit>(x, 0, out);
  store(out, p.out + plain);
}

template <class Unit, bool kProduct, class T, class Index>
FUSED_ACTS_DEVICE void backward_tail(const BackwardParams<Index>& p) {
  const int64_t column = p.tail.begin + threadIdx.x;
  if (blockIdx.x != p.tail.block || column >= p.tail.end) return;
  const int64_t plain = column * sizeof(T), stepped = plain * p.tail.column_step;
  GateUp<T, 1, false> x, grad;
  Vector<T, 1> grad_out;
  load_columns<Unit>(x, p.gate + stepped, p.up + stepped);
  load(p.grad_out + plain, grad_out);
  backward<Unit, kProduct>(grad_out, x, 0, grad);
  grad.store_to(p.grad_gate + stepped, p.grad_up + stepped, p.grad_gate, p.grad_up);
  if constexpr (kProduct) store(grad_out, p.grad_out + plain);
}

template <class Unit, class C>
__global__ void __launch_bounds__(kBlock, C::kMinBlocks)
    forward_kernel(const __grid_constant__ ForwardParams<typename C::Index> p) {
  if constexpr (!C::kCompiled) {
    __trap();
  } else {
    using T = typename C::T;
    let_next_kernel_start();
    const auto n = static_cast<typename C::Index>(blockIdx.x) * kBlock + threadIdx.x;
    const Place<C> place(n, p.shape);
    wait_for_previous_kernel();
    if (n >= p.shape.threads || !place.has_vector(0, p.shape)) return forward_tail<Unit, T>(p);

    const int step = C::kElement ? p.tail.column_step : 1;
    const char* gate = place.in(p.gate, p.gate_stride, C::kBytes, step);
    const char* up = place.in(p.up, C::kNarrow ? p.up_stride : p.gate_stride, C::kBytes, step);
    char* out = place.in(p.out, p.out_stride, C::kOutBytes);

    GateUp<T, C::kColumns, C::kInterleaved> x[C::kVectors];
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      const int offset = v * step * C::kNextBytes;
      if (v == 0 || place.has_vector(v, p.shape))
        load_columns<Unit>(x[v], gate + offset, up + offset);
    }
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      Vector<T, C::kColumns> result;
#pragma unroll
      for (int i = 0; i < C::kColumns; i += C::kLanes) {
        if (fence<C>(p.shape, v * C::kColumns + i)) break;
        forward<Unit>(x[v], i, result);
      }
      if (v == 0 || place.has_vector(v, p.shape)) store(result, out + v * C::kNextOutBytes);
    }
  }
}

template <class Unit, class C, bool kProduct>
__global__ void __launch_bounds__(kBlock, kProduct ? C::kMinBlocksWithProduct : C::kMinBlocks)
    backward_kernel(const __grid_constant__ BackwardParams<typename C::Index> p) {
  if constexpr (!C::kCompiled) {
    __trap();
  } else {
    using T = typename C::T;
    let_next_kernel_start();
    const auto n = static_cast<typename C::Index>(blockIdx.x) * kBlock + threadIdx.x;
    const Place<C> place(n, p.shape);
    wait_for_previous_kernel();
    if (n >= p.shape.threads || !place.has_vector(0, p.shape))
      return backward_tail<Unit, kProduct, T>(p);

    const int step = C::kElement ? p.tail.column_step : 1;
    const auto up_stride = C::kNarrow ? p.up_stride : p.gate_stride;
    const auto grad_up_stride = C::kNarrow ? p.grad_up_stride : p.grad_gate_stride;
    const char* gate = place.in(p.gate, p.gate_stride, C::kBytes, step);
    const char* up = place.in(p.up, up_stride, C::kBytes, step);
    char* grad_out = place.in(p.grad_out, p.grad_out_stride, C::kOutBytes);
    char* grad_gate = place.in(p.grad_gate, p.grad_gate_stride, C::kBytes, step);
    char* grad_up = place.in(p.grad_up, grad_up_stride, C::kBytes, step);
    const bool needs_gate = !C::kNarrow || p.grad_gate;
    const bool needs_up = !Unit::kIsUnary && (!C::kNarrow || p.grad_up);

    GateUp<T, C::kColumns, C::kInterleaved> x[C::kVectors];
    Vector<T, C::kColumns> seed[C::kVectors];
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      const int offset = v * step * C::kNextBytes;
      if (v == 0 || place.has_vector(v, p.shape)) {
        load_columns<Unit>(x[v], gate + offset, up + offset);
        load(grad_out + v * C::kNextOutBytes, seed[v]);
      }
    }
#pragma unroll
    for (int v = 0; v < C::kVectors; ++v) {
      GateUp<T, C::kColumns, C::kInterleaved> grad;
#pragma unroll
      for (int i = 0; i < C::kColumns; i += C::kLanes) {
        if (fence<C>(p.shape, v * C::kColumns + i)) break;
        backward<Unit, kProduct>(seed[v], x[v], i, grad);
      }
      const int offset = v * step * C::kNextBytes;
      if (v == 0 || place.has_vector(v, p.shape)) {
        grad.store_to(grad_gate + offset, grad_up + offset, needs_gate, needs_up);
        if constexpr (kProduct) store(seed[v], grad_out + v * C::kNextOutBytes);
      }
    }
  }
}

}  // namespace fused_acts::cuda
