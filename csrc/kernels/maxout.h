// The seam of maxout: the arguments of one call, and what cpu/ and cuda/ do with them.
#pragma once

#include "kernels/glu.h"

namespace fused_acts {

constexpr int64_t kMostPieces = 256;  // as many as a byte tells apart

// Forward reads x and writes out, the largest of each group of `pieces` neighbouring columns, and
// winner, its index in the group. Backward reads grad_out and winner and writes grad_x. Matrices
// that are all dense are given as one row.
struct MaxoutArgs {
  DType dtype;
  int64_t rows, cols, pieces;
  Matrix wide;      // x or grad_x: [rows, cols * pieces]
  Matrix narrow;    // out or grad_out: [rows, cols]
  uint8_t* winner;  // [rows, cols], dense
};

// The bits of +infinity, above which are those of NaN.
constexpr int64_t infinity_bits(DType dtype) {
  return dtype == DType::kFloat64   ? int64_t{0x7ff} << 52
         : dtype == DType::kFloat32 ? 0x7f800000
         : dtype == DType::kFloat16 ? 0x7c00
                                    : 0x7f80;
}

template <class Bits>
constexpr Bits kMostBits = std::numeric_limits<Bits>::max();

// A number, given by its bits, as an integer in the same order: both zeros are equal, and NaN is
// above all, so that the first of the largest is the one torch.max finds.
template <class Bits>
FUSED_ACTS_INLINE Bits order_of(Bits bits, Bits infinity) {
  const Bits magnitude = static_cast<Bits>(bits & kMostBits<Bits>);
  const Bits ordered = bits < 0 ? static_cast<Bits>(-magnitude) : magnitude;
  return magnitude > infinity ? kMostBits<Bits> : ordered;
}

namespace cpu {

// Elements [begin, end) of the flat index row * cols + col.
void maxout_forward(const MaxoutArgs& args, int64_t begin, int64_t end);
void maxout_backward(const MaxoutArgs& args, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

// Launch on `stream` (a cudaStream_t) of the current device; each returns a cudaError_t.
int maxout_forward(const MaxoutArgs& args, void* stream);
int maxout_backward(const MaxoutArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
