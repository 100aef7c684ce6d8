// The loops of maxout. They compare and move bits, so that one serves both 16-bit dtypes.
#include "kernels/maxout.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/loops.h"
#include "cpu/runs.h"

namespace fused_acts::cpu {
namespace {

// kPieces, where it is not 0, is the number of pieces: loops of known length make vectors.
template <class Bits, int kPieces>
FUSED_ACTS_INLINE void find_winner(const Bits* x, int64_t pieces, Bits infinity, Bits* out,
                                   uint8_t* winner) {
  Bits best = x[0], most = order_of(best, infinity), index = 0;
#pragma GCC unroll 8
  for (int64_t p = 1; p < (kPieces ? kPieces : pieces); ++p) {
    const Bits order = order_of(x[p], infinity);
    const bool wins = order > most;
    best = wins ? x[p] : best;
    index = wins ? static_cast<Bits>(p) : index;
    most = wins ? order : most;
  }
  *out = best;
  *winner = static_cast<uint8_t>(index);
}

template <class Bits, int kPieces>
FUSED_ACTS_WIDE_CLONES void forward_loop(const Bits* __restrict x, int64_t pieces, Bits infinity,
                                         Bits* __restrict out, uint8_t* __restrict winner,
                                         int64_t n) {
  const int64_t step = kPieces ? kPieces : pieces;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    find_winner<Bits, kPieces>(x + i * step, pieces, infinity, out + i, winner + i);
}

template <class Bits, int kPieces>
FUSED_ACTS_INLINE void spread(Bits grad_out, Bits winner, int64_t pieces, Bits* grad_x) {
#pragma GCC unroll 8
  for (int64_t p = 0; p < (kPieces ? kPieces : pieces); ++p)
    grad_x[p] = winner == static_cast<Bits>(p) ? grad_out : Bits(0);
}

template <class Bits, int kPieces>
FUSED_ACTS_WIDE_CLONES void backward_loop(const Bits* __restrict grad_out,
                                          const uint8_t* __restrict winner, int64_t pieces,
                                          Bits* __restrict grad_x, int64_t n) {
  const int64_t step = kPieces ? kPieces : pieces;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    spread<Bits, kPieces>(grad_out[i], winner[i], pieces, grad_x + i * step);
}

// Calls visitor with a value of the integer type of the dtype's size and the number of pieces, or 0
// where there are no loops for that number.
template <class Visitor>
void visit(const MaxoutArgs& args, Visitor&& visitor) {
  const auto with_bits = [&](auto bits) {
    switch (args.pieces) {
      case 2:
        return visitor(bits, std::integral_constant<int, 2>{});
      case 3:
        return visitor(bits, std::integral_constant<int, 3>{});
      case 4:
        return visitor(bits, std::integral_constant<int, 4>{});
      case 8:
        return visitor(bits, std::integral_constant<int, 8>{});
      default:
        return visitor(bits, std::integral_constant<int, 0>{});
    }
  };
  switch (dtype_size(args.dtype)) {
    case 8:
      return with_bits(int64_t{});
    case 4:
      return with_bits(int32_t{});
    default:
      return with_bits(int16_t{});
  }
}

// Calls loop(wide, narrow, winner, n) for the runs of neighbouring elements in [begin, end).
template <class Bits, class Loop>
void for_each_group_run(const MaxoutArgs& args, int64_t begin, int64_t end, Loop&& loop) {
  for_each_run(args.cols, kTile, begin, end, [&](int64_t row, int64_t col, int64_t n) {
    loop(static_cast<Bits*>(args.wide.data) + row * args.wide.row_stride + col * args.pieces,
         static_cast<Bits*>(args.narrow.data) + row * args.narrow.row_stride + col,
         args.winner + row * args.cols + col, n);
  });
}

}  // namespace

void maxout_forward(const MaxoutArgs& args, int64_t begin, int64_t end) {
  visit(args, [&](auto bits, auto pieces) {
    using Bits = decltype(bits);
    const Bits infinity = static_cast<Bits>(infinity_bits(args.dtype));
    for_each_group_run<Bits>(args, begin, end, [&](Bits* x, Bits* out, uint8_t* winner, int64_t n) {
      forward_loop<Bits, decltype(pieces)::value>(x, args.pieces, infinity, out, winner, n);
    });
  });
}

void maxout_backward(const MaxoutArgs& args, int64_t begin, int64_t end) {
  visit(args, [&](auto bits, auto pieces) {
    using Bits = decltype(bits);
    for_each_group_run<Bits>(
        args, begin, end, [&](Bits* grad_x, Bits* grad_out, uint8_t* winner, int64_t n) {
          backward_loop<Bits, decltype(pieces)::value>(grad_out, winner, args.pieces, grad_x, n);
        });
  });
}

}  // namespace fused_acts::cpu
