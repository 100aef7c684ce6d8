// The kernels of softmax_glu: a warp or a block a row. What a thread has read it keeps in its own
// part of shared memory where the row fits, and reads again where it does not.
#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "cuda/vector.cuh"
#include "kernels/softmax_glu.h"

namespace fused_acts::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;
// Doubles take more registers than that leaves.
template <class T>
constexpr int kThreads = sizeof(T) == 8 ? kMostThreads / 2 : kMostThreads;
constexpr int kAccessBytes = 16;

struct Params {
  Matrix gate, up, grad_out, out, grad_gate, grad_up;
  char* stats;
  int64_t rows, cols;
  bool keeps;  // whether a row fits
};

struct Add {
  template <class Real>
  FUSED_ACTS_DEVICE Real operator()(Real a, Real b) const {
    return a + b;
  }
};

// NaN is left to the sum, which it gets into by its exponential.
struct Larger {
  template <class Real>
  FUSED_ACTS_DEVICE Real operator()(Real a, Real b) const {
    return a > b ? a : b;
  }
};

// Combines the values of all threads of a row, always in the same order. x counts the threads of a
// row, y the rows of a block, which are several only where a warp does for a row.
template <class Real, class Combine>
FUSED_ACTS_DEVICE Real combined(Real value, Real neutral, Combine combine) {
  const auto of_warp = [&] {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2)
      value = combine(value, __shfl_xor_sync(0xffffffffu, value, lane));
  };
  of_warp();
  if (blockDim.x == kWarp) return value;
  __shared__ Real of_warps[kMostThreads / kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  value = lane < blockDim.x / kWarp ? of_warps[lane] : neutral;
  __syncthreads();
  of_warp();
  return value;
}

template <class T>
FUSED_ACTS_DEVICE char* at(const Matrix& operand, int64_t row, int64_t column) {
  return static_cast<char*>(operand.data) + (row * operand.row_stride + column) * sizeof(T);
}

// Shared memory for one operand of the block's rows, in vectors.
template <class T, int kColumns>
FUSED_ACTS_DEVICE Vector<T, kColumns>* kept(int64_t cols, int operand) {
  extern __shared__ uint4 shared[];
  const int64_t vectors = cols / kColumns;
  return reinterpret_cast<Vector<T, kColumns>*>(shared) +
         (operand * blockDim.y + threadIdx.y) * vectors;
}

template <class M, class Real = typename M::Real>
FUSED_ACTS_DEVICE Real exponential(Real z) {
  return M::exponential(z).exp;
}

// Calls visitor(row) for the rows of this thread.
template <class Visitor>
FUSED_ACTS_DEVICE void for_each_row(const Params& p, Visitor visitor) {
  const int64_t step = int64_t{gridDim.x} * blockDim.y;
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < p.rows; row += step)
    visitor(row);
}

template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    forward_kernel(const __grid_constant__ Params p) {
  using M = typename MathFor<T>::type;
  using Real = typename M::Real;
  using Columns = Vector<T, kColumns>;
  let_next_kernel_start();
  const int64_t vectors = p.cols / kColumns;
  wait_for_previous_kernel();
  for_each_row(p, [&](int64_t row) {
    Columns* const gates = kept<T, kColumns>(p.cols, 0);
    Real largest = kLowest<Real>, sum = 0;
#pragma unroll 2
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
      Columns gate;
      load(at<T>(p.gate, row, i * kColumns), gate);
      if (p.keeps) gates[i] = gate;
      Real most = largest;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) most = Larger{}(get<Real>(gate, k), most);
      sum = sum * exponential<M>(most - largest);
      largest = most;
#pragma unroll
      for (int k = 0; k < kColumns; ++k) sum += exponential<M>(largest - get<Real>(gate, k));
    }
    const Real most = combined(largest, kLowest<Real>, Larger{});
    sum = combined(sum * exponential<M>(most - largest), Real(0), Add{});
    const Real scale = Real(1) / sum;
#pragma unroll 2
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
      Columns gate, up, out;
      load(at<T>(p.up, row, i * kColumns), up);
      if (p.keeps) {
        gate = gates[i];
      } else {
        load(at<T>(p.gate, row, i * kColumns), gate);
      }
      const auto product = [&](int k) {
        return exponential<M>(most - get<Real>(gate, k)) * (scale * get<Real>(up, k));
      };
      if constexpr (kColumns == 1) {
        set(out, 0, product(0));
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; k += 2) set_pair(out, k, product(k), product(k + 1));
      }
      store(out, at<T>(p.out, row, i * kColumns));
    }
    if (threadIdx.x == 0) {
      Real* stats = reinterpret_cast<Real*>(p.stats) + 2 * row;
      stats[0] = most;
      stats[1] = scale;
    }
  });
}

template <class T, int kColumns>
__global__ void __launch_bounds__(kThreads<T>, sizeof(T) == 8 ? 2 : 1)
    backward_kernel(const __grid_constant__ Params p) {
  using M = typename MathFor<T>::type;
  using Real = typename M::Real;
  using Columns = Vector<T, kColumns>;
  let_next_kernel_start();
  const int64_t vectors = p.cols / kColumns;
  wait_for_previous_kernel();
  for_each_row(p, [&](int64_t row) {
    Columns* const gates = kept<T, kColumns>(p.cols, 0);
    Columns* const ups = kept<T, kColumns>(p.cols, 1);
    Columns* const grads = kept<T, kColumns>(p.cols, 2);
    const Real* stats = reinterpret_cast<const Real*>(p.stats) + 2 * row;
    const Real largest = stats[0], scale = stats[1];
    const auto read = [&](int64_t i, Columns& gate, Columns& up, Columns& grad) {
      load(at<T>(p.gate, row, i * kColumns), gate);
      load(at<T>(p.up, row, i * kColumns), up);
      load(at<T>(p.grad_out, row, i * kColumns), grad);
    };
    const auto weight = [&](const Columns& gate, int k) {
      return exponential<M>(largest - get<Real>(gate, k)) * scale;
    };
    Real sum = 0;
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
      Columns gate, up, grad, grad_up;
      read(i, gate, up, grad);
      if (p.keeps) {
        gates[i] = gate;
        ups[i] = up;
        grads[i] = grad;
      }
      const auto by_up = [&](int k) {
        const Real value = weight(gate, k), seed = get<Real>(grad, k);
        sum += value * (seed * get<Real>(up, k));
        return value * seed;
      };
      if constexpr (kColumns == 1) {
        set(grad_up, 0, by_up(0));
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; k += 2) {
          const Real first = by_up(k), second = by_up(k + 1);
          set_pair(grad_up, k, first, second);
        }
      }
      if (p.grad_up.data) store(grad_up, at<T>(p.grad_up, row, i * kColumns));
    }
    if (!p.grad_gate.data) return;
    sum = combined(sum, Real(0), Add{});
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
      Columns gate, up, grad, grad_gate;
      if (p.keeps) {
        gate = gates[i];
        up = ups[i];
        grad = grads[i];
      } else {
        read(i, gate, up, grad);
      }
      const auto by_gate = [&](int k) {
        return weight(gate, k) * (get<Real>(grad, k) * get<Real>(up, k) - sum);
      };
      if constexpr (kColumns == 1) {
        set(grad_gate, 0, by_gate(0));
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; k += 2) set_pair(grad_gate, k, by_gate(k), by_gate(k + 1));
      }
      store(grad_gate, at<T>(p.grad_gate, row, i * kColumns));
    }
  });
}

template <class T, int kColumns>
cudaError_t launch(bool forward, Params p, cudaStream_t stream) {
  const auto kernel = forward ? forward_kernel<T, kColumns> : backward_kernel<T, kColumns>;
  const int64_t vectors = p.cols / kColumns;
  // A warp does for up to 4 vectors a thread; longer rows get a power of two of threads.
  dim3 block(kWarp, 8);
  if (vectors > 4 * kWarp) {
    block = dim3(64, 1);
    while (block.x < kThreads<T> && block.x * 4 < vectors) block.x *= 2;
  }
  // A single 16-bit element lies in a word.
  const int64_t bytes = block.y * vectors * sizeof(Vector<T, kColumns>) * (forward ? 1 : 3);
  p.keeps = bytes <= kMostShared;
  const auto shared = static_cast<int>(p.keeps ? bytes : 0);
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  const int64_t blocks = (p.rows + block.y - 1) / block.y;
  const auto grid = static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
  return launch_kernel(kernel, dim3(grid), block, shared, stream, p);
}

template <class T>
cudaError_t choose(bool forward, const Params& p, cudaStream_t stream) {
  const auto aligned = [&](const Matrix& operand) {
    const int64_t stride = p.rows == 1 ? 0 : operand.row_stride * int64_t{sizeof(T)};
    return reinterpret_cast<uintptr_t>(operand.data) % kAccessBytes == 0 &&
           stride % kAccessBytes == 0;
  };
  constexpr int kColumns = kAccessBytes / sizeof(T);
  const bool wide = p.cols % kColumns == 0 && aligned(p.gate) && aligned(p.up) &&
                    aligned(p.grad_out) && aligned(p.out) && aligned(p.grad_gate) &&
                    aligned(p.grad_up);
  return wide ? launch<T, kColumns>(forward, p, stream) : launch<T, 1>(forward, p, stream);
}

int run(bool forward, const SoftmaxGluArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const Params p{args.gate,
                 args.up,
                 args.grad_out,
                 args.out,
                 args.grad_gate,
                 args.grad_up,
                 static_cast<char*>(args.stats),
                 args.rows,
                 args.cols,
                 false};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return visit_dtype(args.dtype,
                     [&](auto t) { return choose<decltype(t)>(forward, p, cuda_stream); });
}

}  // namespace

int softmax_glu_forward(const SoftmaxGluArgs& args, void* stream) {
  return run(true, args, stream);
}
int softmax_glu_backward(const SoftmaxGluArgs& args, void* stream) {
  if (!args.grad_gate.data && !args.grad_up.data) return cudaSuccess;
  return run(false, args, stream);
}

}  // namespace fused_acts::cuda
