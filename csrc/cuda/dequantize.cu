// From eight bits in blocks of 128 columns back to what they were quantised from.
#include "cuda/dependent_launch.cuh"
#include "cuda/divider.h"
#include "cuda/launch.h"
#include "cuda/vector.cuh"

namespace fused_acts::cuda {
namespace {

constexpr int kGroup = group_columns(Format::kFp8Block128);

struct DequantizeParams {
  const uint8_t* values;
  const float* scales;
  char* out;
  uint32_t threads;
  Divider vectors;  // of a row, the last of which may be cut
  int64_t cols, groups;
  bool whole;
};

// A vector of out each thread, which lies in one group.
template <class T>
__global__ void __launch_bounds__(kBlock)
    dequantize_kernel(const __grid_constant__ DequantizeParams p) {
  constexpr int kColumns = 16 / sizeof(T);
  let_next_kernel_start();
  const uint32_t n = blockIdx.x * kBlock + threadIdx.x;
  const uint32_t row = divide(n, p.vectors);
  const uint32_t column = (n + row * p.vectors.minus_divisor) * kColumns;
  wait_for_previous_kernel();
  if (n >= p.threads) return;
  const float scale = p.scales[row * p.groups + column / kGroup];
  const int64_t first = row * p.cols + column;
  const auto value = [&](uint8_t code) { return from_e4m3(code) * scale; };
  if (p.whole) {
    Vector<uint8_t, kColumns> codes;
    Vector<T, kColumns> out;
    load(reinterpret_cast<const char*>(p.values) + first, codes);
#pragma unroll
    for (int k = 0; k < kColumns; k += 2) {
      const uint32_t pair = codes.words[k / 4] >> k % 4 * 8;
      set_pair(out, k, value(pair), value(pair >> 8));
    }
    store(out, p.out + first * static_cast<int64_t>(sizeof(T)));
    return;
  }
#pragma unroll 1
  for (int k = 0; k < kColumns && column + k < p.cols; ++k) {
    Vector<T, 1> out;
    set(out, 0, value(p.values[first + k]));
    store(out, p.out + (first + k) * static_cast<int64_t>(sizeof(T)));
  }
}

template <class T>
cudaError_t launch_dequantize(const DequantizeArgs& args, cudaStream_t stream) {
  constexpr int kColumns = 16 / sizeof(T);
  const int64_t vectors = ceil_div(args.cols, kColumns), threads = args.rows * vectors;
  if (threads == 0) return cudaSuccess;
  if (threads >= kThreadsEnd || args.cols >= kThreadsEnd) return cudaErrorInvalidConfiguration;
  const bool whole = args.cols % kColumns == 0 &&
                     reinterpret_cast<uintptr_t>(args.values) % kColumns == 0 &&
                     reinterpret_cast<uintptr_t>(args.out) % 16 == 0;
  const DequantizeParams params{args.values,
                                args.scales,
                                static_cast<char*>(args.out),
                                static_cast<uint32_t>(threads),
                                make_divider(vectors),
                                args.cols,
                                ceil_div(args.cols, kGroup),
                                whole};
  return launch_kernel(dequantize_kernel<T>, static_cast<unsigned>(ceil_div(threads, kBlock)),
                       kBlock, 0, stream, params);
}

}  // namespace

int dequantize(const DequantizeArgs& args, void* stream) {
  return visit_wide(args.dtype, [&](auto t) {
    return launch_dequantize<decltype(t)>(args, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace fused_acts::cuda
