// The loops of maxout over a run of groups, left to the compiler: they compare and move bits. Only
// for the files that compile them for an instruction set.
#pragma once

#include <type_traits>

#include "cpu/loops.h"
#include "kernels/maxout.h"

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
void maxout_forward(const Bits* __restrict x, int64_t pieces, Bits infinity, Bits* __restrict out,
                    uint8_t* __restrict winner, int64_t n) {
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
void maxout_backward(const Bits* __restrict grad_out, const uint8_t* __restrict winner,
                     int64_t pieces, Bits* __restrict grad_x, int64_t n) {
  const int64_t step = kPieces ? kPieces : pieces;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    spread<Bits, kPieces>(grad_out[i], winner[i], pieces, grad_x + i * step);
}

// Calls visitor with the number of pieces, or 0 where there are no loops for that number.
template <class Visitor>
void visit_pieces(int64_t pieces, Visitor&& visitor) {
  switch (pieces) {
    case 2:
      return visitor(std::integral_constant<int, 2>{});
    case 3:
      return visitor(std::integral_constant<int, 3>{});
    case 4:
      return visitor(std::integral_constant<int, 4>{});
    case 8:
      return visitor(std::integral_constant<int, 8>{});
    default:
      return visitor(std::integral_constant<int, 0>{});
  }
}

// An integer of the size of T.
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 8, int64_t,
                                  std::conditional_t<sizeof(T) == 4, int32_t, int16_t>>;

template <class T, DType dtype>
struct MaxoutLoops {
  using Bits = BitsOf<T>;
  static constexpr Bits kInfinity = static_cast<Bits>(infinity_bits(dtype));

  static void forward(const void* x, int64_t pieces, void* out, uint8_t* winner, int64_t n) {
    visit_pieces(pieces, [&](auto known) {
      maxout_forward<Bits, decltype(known)::value>(static_cast<const Bits*>(x), pieces, kInfinity,
                                                   static_cast<Bits*>(out), winner, n);
    });
  }
  static void backward(const void* grad_out, const uint8_t* winner, int64_t pieces, void* grad_x,
                       int64_t n) {
    visit_pieces(pieces, [&](auto known) {
      maxout_backward<Bits, decltype(known)::value>(static_cast<const Bits*>(grad_out), winner,
                                                    pieces, static_cast<Bits*>(grad_x), n);
    });
  }
};

}  // namespace
}  // namespace fused_acts::cpu
