// The kernels of maxout. They compare and move bits, so that one serves both 16-bit dtypes.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "cuda/dependent_launch.cuh"
#include "cuda/launch.h"
#include "cuda/vector.cuh"
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
  int pieces;
};

// Whole accesses of 16 bytes, or a smaller one.
template <class Bits, int kCount>
struct alignas(std::min<int>(kAccessBytes, kCount * sizeof(Bits) & -(kCount * sizeof(Bits)))) Pack {
  Bits values[kCount];
};

template <class P>
FUSED_ACTS_DEVICE P read(const void* source) {
  if constexpr (sizeof(P) % sizeof(uint4) == 0) {
    uint4 parts[sizeof(P) / sizeof(uint4)];
#pragma unroll
    for (int i = 0; i < sizeof(P) / sizeof(uint4); ++i)
      parts[i] = static_cast<const uint4*>(source)[i];
    P pack;
    memcpy(&pack, parts, sizeof pack);
    return pack;
  } else {
    return *static_cast<const P*>(source);
  }
}

template <class P>
FUSED_ACTS_DEVICE void write(const P& pack, void* target) {
  if constexpr (sizeof(P) % sizeof(uint4) == 0) {
    uint4 parts[sizeof(P) / sizeof(uint4)];
    memcpy(parts, &pack, sizeof pack);
#pragma unroll
    for (int i = 0; i < sizeof(P) / sizeof(uint4); ++i)
      asm volatile(
          "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(static_cast<uint4*>(target) + i),
          "r"(parts[i].x), "r"(parts[i].y), "r"(parts[i].z), "r"(parts[i].w)
          : "memory");
  } else {
    *static_cast<P*>(target) = pack;
  }
}

// The bits of an element as a number of the same order among the others: those of 16 bits as the
// upper half of a float, whatever the format. NaN may be any number beyond infinity.
FUSED_ACTS_DEVICE float number_of(int16_t bits) { return __int_as_float(int{bits} << 16); }
FUSED_ACTS_DEVICE float number_of(int32_t bits) { return __int_as_float(bits); }
FUSED_ACTS_DEVICE double number_of(int64_t bits) { return __longlong_as_double(bits); }
template <class Bits>
FUSED_ACTS_DEVICE Bits bits_of(float number) {
  return static_cast<Bits>(__float_as_int(number) >> (32 - 8 * sizeof(Bits)));
}
template <class Bits>
FUSED_ACTS_DEVICE Bits bits_of(double number) {
  return __double_as_longlong(number);
}
template <class Number>
FUSED_ACTS_DEVICE bool is_nan(Number x, Number infinity) {
  return !(fabs(x) <= infinity);
}

// kGroups neighbouring groups of a row, of which kPack pieces each are read at once: all of them,
// or of a single group some.
template <class Bits, int kPack, int kGroups, int kUnroll = 4>
FUSED_ACTS_DEVICE void forward(const Params& p, Bits infinity_bits, int64_t row, int64_t column) {
  using Number = decltype(number_of(infinity_bits));
  const Number infinity = number_of(infinity_bits);
  const Bits* x = reinterpret_cast<const Bits*>(p.wide) + row * p.wide_stride + column * p.pieces;
  Pack<uint8_t, kGroups> index{};
  Number most[kGroups];
#pragma unroll kUnroll
  for (int first = 0; first < (kGroups > 1 ? 1 : p.pieces); first += kPack) {
    const auto group = read<Pack<Bits, kPack * kGroups>>(x + first);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const Number x = number_of(group.values[g * kPack + k]);
        const bool larger = (x > most[g]) | is_nan(x, infinity);
        const bool wins = (first == 0 && k == 0) || (larger & !is_nan(most[g], infinity));
        index.values[g] = wins ? static_cast<uint8_t>(first + k) : index.values[g];
        most[g] = wins ? x : most[g];
      }
    }
  }
  Pack<Bits, kGroups> best;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) best.values[g] = bits_of<Bits>(most[g]);
  write(best, reinterpret_cast<Bits*>(p.narrow) + row * p.narrow_stride + column);
  write(index, p.winner + row * p.cols + column);
}

template <class Bits, int kPack, int kGroups, int kUnroll = 4>
FUSED_ACTS_DEVICE void backward(const Params& p, int64_t row, int64_t column) {
  const Bits* from = reinterpret_cast<const Bits*>(p.narrow) + row * p.narrow_stride + column;
  const auto grad = read<Pack<Bits, kGroups>>(from);
  const auto index = read<Pack<uint8_t, kGroups>>(p.winner + row * p.cols + column);
  Bits* to = reinterpret_cast<Bits*>(p.wide) + row * p.wide_stride + column * p.pieces;
#pragma unroll kUnroll
  for (int first = 0; first < (kGroups > 1 ? 1 : p.pieces); first += kPack) {
    Pack<Bits, kPack * kGroups> group;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int k = 0; k < kPack; ++k)
        group.values[g * kPack + k] =
            index.values[g] == first + k ? grad.values[g] : static_cast<Bits>(0);
    }
    write(group, to + first);
  }
}

// x counts a row's threads, each with kGroups neighbouring groups, y and z the rows. What fills no
// thread at a row's end, the last one does group by group.
template <int kGroups, class Many, class One>
FUSED_ACTS_DEVICE void at_place(const Params& p, Many many, One one) {
  let_next_kernel_start();
  const int64_t column = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kGroups;
  const int64_t rows = int64_t{blockIdx.z} * gridDim.y + blockIdx.y;
  const int64_t row = rows * blockDim.y + threadIdx.y;
  wait_for_previous_kernel();
  if (row >= p.rows) return;
  if (column + kGroups <= p.cols) return many(row, column);
#pragma unroll 1
  for (int64_t i = column; i < p.cols; ++i) one(row, i);
}

template <class Bits, int kPack, int kGroups>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ Params p, Bits infinity) {
  at_place<kGroups>(
      p, [&](int64_t row, int64_t i) { forward<Bits, kPack, kGroups>(p, infinity, row, i); },
      [&](int64_t row, int64_t i) { forward<Bits, 1, 1, 1>(p, infinity, row, i); });
}

template <class Bits, int kPack, int kGroups>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ Params p) {
  at_place<kGroups>(
      p, [&](int64_t row, int64_t i) { backward<Bits, kPack, kGroups>(p, row, i); },
      [&](int64_t row, int64_t i) { backward<Bits, 1, 1, 1>(p, row, i); });
}

template <class Bits, int kPack, int kGroups>
int launch(Direction direction, const MaxoutArgs& args, const Params& p, cudaStream_t stream) {
  const int64_t of_row = (p.cols + kGroups - 1) / kGroups;
  dim3 block(kThreads);
  while (block.x > 1 && block.x / 2 >= of_row && block.y < p.rows) block.x /= 2, block.y *= 2;
  constexpr int64_t kMost = 65535;
  const int64_t of_rows = (p.rows + block.y - 1) / block.y, z = (of_rows + kMost - 1) / kMost;
  const dim3 grid(static_cast<unsigned>((of_row + block.x - 1) / block.x),
                  static_cast<unsigned>((of_rows + z - 1) / z), static_cast<unsigned>(z));
  return direction == Direction::kForward
             ? launch_kernel(forward_kernel<Bits, kPack, kGroups>, grid, block, 0, stream, p,
                             static_cast<Bits>(infinity_bits(args.dtype)))
             : launch_kernel(backward_kernel<Bits, kPack, kGroups>, grid, block, 0, stream, p);
}

// Whether all accesses to so many groups at a time are aligned.
bool fits(const Params& p, int size, int groups) {
  const auto aligned = [&](const void* data, int64_t stride_bytes, int bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0 &&
           (p.rows == 1 || stride_bytes % bytes == 0);
  };
  return aligned(p.wide, p.wide_stride * size, kAccessBytes) &&
         aligned(p.narrow, p.narrow_stride * size, size * groups) &&
         aligned(p.winner, p.cols, groups);
}

// As many whole groups as fill two accesses of 16 bytes or more, or such accesses within a group.
template <class Bits, int kPieces>
int choose(Direction direction, const MaxoutArgs& args, const Params& p, cudaStream_t stream) {
  constexpr int kLanes = kAccessBytes / sizeof(Bits);
  constexpr int kMostPieces = 8;  // of which a thread holds whole groups
  if constexpr (kPieces <= kMostPieces) {
    constexpr int kLeast = kLanes / std::gcd(kPieces, kLanes);
    constexpr int kGroups = kLeast * kPieces > kLanes ? kLeast : 2 * kLeast;
    if (p.pieces != kPieces) return choose<Bits, kPieces + 1>(direction, args, p, stream);
    if constexpr (kGroups > 1)
      if (fits(p, sizeof(Bits), kGroups))
        return launch<Bits, kPieces, kGroups>(direction, args, p, stream);
  }
  if (p.pieces % kLanes == 0 && fits(p, sizeof(Bits), 1))
    return launch<Bits, kLanes, 1>(direction, args, p, stream);
  return launch<Bits, 1, 1>(direction, args, p, stream);
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
                 static_cast<int>(args.pieces)};
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype_size(args.dtype)) {
    case 8:
      return choose<int64_t, 2>(direction, args, p, cuda_stream);
    case 4:
      return choose<int32_t, 2>(direction, args, p, cuda_stream);
    default:
      return choose<int16_t, 2>(direction, args, p, cuda_stream);
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
