// The launch plan: host arithmetic that decides once how a call's matrices are cut into vectors and blocks.
// Torch-free and CUDA-free.
#pragma once

#include <algorithm>
#include <cstdint>

#include "glu.h"

namespace fused_acts::cuda {

constexpr int kMaxBlock = 256;  // threads
constexpr int kMinBlock = 64;
constexpr int64_t kManyBlocks = 256;  // enough to reach every multiprocessor of a large GPU

// How elements of one operand follow each other in an access.
enum class Access : int {
  kElement,      // one column an access, columns any distance apart
  kVector,       // neighbouring columns of one operand
  kInterleaved,  // neighbouring columns of gate and up, alternating, in one access
};

struct LaunchPlan {
  Access access;
  int access_bytes;   // of a widest access; grad_out and out take half of it when interleaved
  int columns;        // columns an access covers
  int vectors;        // accesses to each operand a thread makes
  int block;          // threads a block
  int64_t blocks;     // of threads that work on vectors
  int64_t grid;       // blocks, and one more for the columns that fill no vector
};

// Vectors a thread works on: enough loads in flight to hide the latency, in few enough registers.
constexpr int vectors_per_thread(Access access, int access_bytes, bool backward) {
  const int in_flight = (backward ? 16 : 32) * (access == Access::kInterleaved ? 2 : 1);
  return std::clamp(in_flight / access_bytes, 1, 4);
}

// Index arithmetic is 32-bit where vectors are so wide that 2^31 of them exceed every GPU's memory.
constexpr bool has_wide_index(int access_bytes) { return access_bytes < 16; }

namespace internal {

inline bool aligned(const Operand& operand, int64_t rows, int64_t size, int64_t bytes) {
  if (operand.data == nullptr) return true;
  return reinterpret_cast<uintptr_t>(operand.data) % bytes == 0 &&
         (rows == 1 || operand.row_stride * size % bytes == 0);
}

inline bool is_pair(const Operand& even, const Operand& odd, int64_t size) {
  if (even.data == nullptr && odd.data == nullptr) return true;
  return even.data != nullptr && odd.data == static_cast<char*>(even.data) + size &&
         even.row_stride == odd.row_stride;
}

// Whether every operand can be read and written `columns` columns at a time.
inline bool fits(const GluArgs& args, Access access, int columns) {
  const int64_t size = dtype_size(args.dtype), plain = columns * size;
  if (args.rows > 1 && args.cols % columns != 0) return false;
  if (!has_wide_index(plain) && args.rows * (args.cols / columns) >= int64_t{1} << 31) return false;
  const int64_t packed = access == Access::kInterleaved ? 2 * plain : plain;
  for (const Operand* operand : {&args.out, &args.grad_out}) {
    if (!aligned(*operand, args.rows, size, plain)) return false;
  }
  if (access == Access::kInterleaved) {
    return is_pair(args.gate, args.up, size) && is_pair(args.grad_gate, args.grad_up, size) &&
           aligned(args.gate, args.rows, size, packed) &&
           aligned(args.grad_gate, args.rows, size, packed);
  }
  for (const Operand* operand : {&args.gate, &args.up, &args.grad_gate, &args.grad_up}) {
    if (!aligned(*operand, args.rows, size, plain)) return false;
  }
  return true;
}

}  // namespace internal

// The plan for a call with at least one element, with accesses of at most widest_access bytes.
inline LaunchPlan make_plan(const GluArgs& args, int widest_access) {
  const bool backward = args.grad_out.data != nullptr;
  const int size = static_cast<int>(dtype_size(args.dtype));
  LaunchPlan plan{Access::kElement, size, 1};
  const Access access = args.step == 2 ? Access::kInterleaved : Access::kVector;
  for (int bytes = widest_access; bytes > size; bytes /= 2) {
    const int columns = bytes / (size * args.step);
    if (internal::fits(args, access, columns)) {
      plan = {access, bytes, columns};
      break;
    }
  }
  plan.vectors = vectors_per_thread(plan.access, plan.access_bytes, backward);
  const int64_t vectors = args.rows * (args.cols / plan.columns);
  const auto blocks = [&](int block) {
    const int64_t step = int64_t{block} * plan.vectors;
    return (vectors + step - 1) / step;
  };
  plan.block = kMaxBlock;
  while (plan.block > kMinBlock && blocks(plan.block) < kManyBlocks) plan.block /= 2;
  plan.blocks = blocks(plan.block);
  plan.grid = plan.blocks + (args.cols % plan.columns != 0);
  return plan;
}

}  // namespace fused_acts::cuda
