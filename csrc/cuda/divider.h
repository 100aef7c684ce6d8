// Division by a number that is known before the launch, as a multiplication.
#pragma once

#include <cstdint>

namespace fused_acts::cuda {

// Exact quotients n / divisor for n below 2^31:
//   n * magic >> shift,  magic = ceil(2^shift / divisor),  shift = 31 + ceil(log2(divisor))
struct Divider {
  uint32_t minus_divisor, magic;
  int shift;

#ifdef __CUDACC__
  __device__ __forceinline__ operator int32_t() const {
    return static_cast<int32_t>(-minus_divisor);
  }
#endif
};

inline Divider make_divider(int64_t divisor) {
  int log2 = 0;
  while (log2 < 31 && (int64_t{1} << log2) < divisor) ++log2;
  const auto power = uint64_t{1} << (31 + log2);
  const auto magic = (power + static_cast<uint64_t>(divisor) - 1) / static_cast<uint64_t>(divisor);
  return {static_cast<uint32_t>(-divisor), static_cast<uint32_t>(magic), 31 + log2};
}

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t divide(uint32_t n, const Divider& d) {
  return static_cast<uint32_t>((static_cast<uint64_t>(n) * d.magic) >> d.shift);
}
// Of what is not negative.
__device__ __forceinline__ int32_t operator/(int32_t n, const Divider& d) {
  return static_cast<int32_t>(divide(static_cast<uint32_t>(n), d));
}
#endif

}  // namespace fused_acts::cuda
