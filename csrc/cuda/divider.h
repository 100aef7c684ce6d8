// Division by a number that is known before the launch, as a multiplication.
#pragma once

#include <cstdint>

namespace fused_acts::cuda {

// Exact quotients n / divisor for n below half the range of Index:
//   n * magic >> shift,  magic = ceil(2^s / divisor),  s = bits - 1 + ceil(log2(divisor))
// where shift is s, less 64 for the 64-bit Index, whose device code keeps the high half only.
template <class Index>
struct Divider {
  Index minus_divisor, magic;
  int shift;
};

template <class Index>
Divider<Index> make_divider(int64_t divisor) {
  constexpr int kBits = 8 * sizeof(Index);
  int log2 = 0;
  while (log2 < kBits - 1 && (int64_t{1} << log2) < divisor) ++log2;
  const auto power = static_cast<unsigned __int128>(1) << (kBits - 1 + log2);
  return {static_cast<Index>(-divisor), static_cast<Index>((power + divisor - 1) / divisor),
          kBits == 32 ? 31 + log2 : log2};
}

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t divide(uint32_t n, const Divider<uint32_t>& d) {
  return static_cast<uint32_t>((static_cast<uint64_t>(n) * d.magic) >> d.shift);
}
__device__ __forceinline__ uint64_t divide(uint64_t n, const Divider<uint64_t>& d) {
  return __umul64hi(n << 1, d.magic) >> d.shift;
}
#endif

}  // namespace fused_acts::cuda
