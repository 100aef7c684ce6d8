// The kernels of maxout. They compare and move bits, so that one serves both 16-bit dtypes.
#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "kernels/maxout.h"

namespace fused_acts::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAccessBytes = 16;

struct Params {
  char* wide;
  char* narrow;
  uint8_t* winner;
  int64_t wide_stride, narrow_stride;  // elements
  int64_t rows, cols;
  int64_t per_row;  // threads of a row
  int pieces;
};

template <class Bits, int kCount>
struct alignas(sizeof(Bits) * kCount) Pack {
  Bits values[kCount];
};

// The threads of all rows, each with kGroups neighbouring groups: visitor(row, column).
template <int kGroups, class Visitor>
__device__ __forceinline__ void for_each_place(const Params& p, Visitor visitor) {
  const int64_t all = p.rows * p.per_row, step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < all; i += step) {
    const int64_t row = p.rows == 1 ? 0 : i / p.per_row;
    visitor(row, (i - row * p.per_row) * kGroups);
  }
}

// kPack pieces of a group are read at once, or kGroups whole groups.
template <class Bits, int kPack, int kGroups>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ Params p, Bits infinity) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  for_each_place<kGroups>(p, [&](int64_t row, int64_t column) {
    using Wide = Pack<Bits, kPack * kGroups>;
    const Bits* x = reinterpret_cast<const Bits*>(p.wide) + row * p.wide_stride + column * p.pieces;
    Pack<Bits, kGroups> best;
    Pack<uint8_t, kGroups> index;
    Bits most[kGroups];
    for (int first = 0; first < p.pieces; first += kPack) {
      const Wide group = *reinterpret_cast<const Wide*>(x + first);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const Bits value = group.values[g * kPack + k], order = order_of(value, infinity);
          const bool wins = (first == 0 && k == 0) || order > most[g];
          best.values[g] = wins ? value : best.values[g];
          index.values[g] = wins ? static_cast<uint8_t>(first + k) : index.values[g];
          most[g] = wins ? order : most[g];
        }
      }
    }
    Bits* out = reinterpret_cast<Bits*>(p.narrow) + row * p.narrow_stride + column;
    *reinterpret_cast<Pack<Bits, kGroups>*>(out) = best;
    *reinterpret_cast<Pack<uint8_t, kGroups>*>(p.winner + row * p.cols + column) = index;
  });
}

template <class Bits, int kPack, int kGroups>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ Params p) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  for_each_place<kGroups>(p, [&](int64_t row, int64_t column) {
    using Wide = Pack<Bits, kPack * kGroups>;
    const Bits* from = reinterpret_cast<const Bits*>(p.narrow) + row * p.narrow_stride + column;
    const auto grad = *reinterpret_cast<const Pack<Bits, kGroups>*>(from);
    const auto index =
        *reinterpret_cast<const Pack<uint8_t, kGroups>*>(p.winner + row * p.cols + column);
    Bits* to = reinterpret_cast<Bits*>(p.wide) + row * p.wide_stride + column * p.pieces;
    for (int first = 0; first < p.pieces; first += kPack) {
      Wide group;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int k = 0; k < kPack; ++k)
          group.values[g * kPack + k] =
              index.values[g] == first + k ? grad.values[g] : static_cast<Bits>(0);
      }
      *reinterpret_cast<Wide*>(to + first) = group;
    }
  });
}

// Whether kPack pieces and kGroups groups at a time stay aligned and within a row.
template <class Bits, int kPack, int kGroups>
bool fits(const Params& p) {
  const auto aligned = [](const void* data, int64_t stride_bytes, int bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0 && stride_bytes % bytes == 0;
  };
  constexpr int kSize = sizeof(Bits);
  const int64_t wide = p.rows == 1 ? 0 : p.wide_stride, narrow = p.rows == 1 ? 0 : p.narrow_stride;
  return (kGroups == 1 ? p.pieces % kPack == 0 : p.pieces == kPack) && p.cols % kGroups == 0 &&
         aligned(p.wide, wide * kSize, kSize * kPack * kGroups) &&
         aligned(p.narrow, narrow * kSize, kSize * kGroups) && aligned(p.winner, 0, kGroups);
}

template <class Bits, int kPack, int kGroups>
int launch(Direction direction, const MaxoutArgs& args, Params p, cudaStream_t stream) {
  p.per_row = p.cols / kGroups;
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  const int64_t blocks = (p.rows * p.per_row + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
  return direction == Direction::kForward
             ? launch_kernel(forward_kernel<Bits, kPack, kGroups>, grid, kThreads, 0, stream, p,
                             static_cast<Bits>(infinity_bits(args.dtype)))
             : launch_kernel(backward_kernel<Bits, kPack, kGroups>, grid, kThreads, 0, stream, p);
}

// The widest accesses that the pieces allow, else single elements.
template <class Bits, int kPack>
int choose(Direction direction, const MaxoutArgs& args, const Params& p, cudaStream_t stream) {
  constexpr int kGroups = kAccessBytes / sizeof(Bits) / kPack;
  if constexpr (kPack == 1) {
    return launch<Bits, 1, 1>(direction, args, p, stream);
  } else {
    if (fits<Bits, kPack, kGroups>(p))
      return launch<Bits, kPack, kGroups>(direction, args, p, stream);
    return choose<Bits, kPack / 2>(direction, args, p, stream);
  }
}

int run(Direction direction, const MaxoutArgs& args, void* stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const Params p{static_cast<char*>(args.wide.data),
                 static_cast<char*>(args.narrow.data),
                 args.winner,
                 args.wide.row_stride,
                 args.narrow.row_stride,
                 args.rows,
                 args.cols,
                 args.cols,
                 static_cast<int>(args.pieces)};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype_size(args.dtype)) {
    case 8:
      return choose<int64_t, 2>(direction, args, p, cuda_stream);
    case 4:
      return choose<int32_t, 4>(direction, args, p, cuda_stream);
    default:
      return choose<int16_t, 8>(direction, args, p, cuda_stream);
  }
}

}  // namespace

int maxout_forward(const MaxoutArgs& args, void* stream) {
  return run(Direction::kForward, args, stream);
}
int maxout_backward(const MaxoutArgs& args, void* stream) {
  return run(Direction::kBackward, args, stream);
}

}  // namespace fused_acts::cuda
