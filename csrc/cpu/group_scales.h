// What groups of columns are scaled by, and their quantisation.
#pragma once

#include <limits>

#include "cpu/loops.h"
#include "kernels/quantized.h"

namespace fused_acts::cpu {

constexpr int64_t kMostGroups = kTile / 16;

// Neighbouring groups of a row, at most kTile columns: what each is scaled by.
class GroupScales {
 public:
  explicit GroupScales(const QuantizedArgs& args)
      : args_(args),
        loops_(loops_for(DType::kFloat32).quantize),
        packed_(args.scales.layout == ScaleLayout::kPackedUe8m0),
        tensor_scale_(args.tensor_scale ? *args.tensor_scale : 1.0f),
        factor_(args.format == Format::kNvfp4 ? tensor_scale_ : 1.0f) {}

  // Of groups by their largest magnitudes; `bits` become those of their scales.
  void set(const float* largest, int64_t count, uint32_t* bits) {
    switch (args_.format) {
      case Format::kNvfp4:
        return set_all([] { return Format::kNvfp4; }, largest, count, bits);
      case Format::kMxfp8:
        return set_all([] { return Format::kMxfp8; }, largest, count, bits);
      default:
        return set_all([this] { return args_.format; }, largest, count, bits);
    }
  }

  // Of the one scale that is given.
  void set_given(float largest) {
    divisors_[0] = tensor_scale_;
    reciprocals_[0] = 1 / tensor_scale_;
    bounded_ = largest <= kLargestE4m3 * tensor_scale_ && is_in_range(tensor_scale_);
  }

  void quantize(const float* y, int64_t n, int64_t group, uint8_t* q) {
    const bool packs = args_.format == Format::kNvfp4;
    loops_.quantize({args_.format, bounded_, n, group, factor_, y, divisors_, reciprocals_,
                     packs ? codes_ : q});
    if (packs) loops_.pack(codes_, n, q);
  }

 private:
  static bool is_in_range(float divisor) {
    return divisor >= kLeastDivisor && divisor <= kMostDivisor;
  }

  // In a loop of its own for a format that is known.
  template <class FormatOf>
  FUSED_ACTS_INLINE void set_all(FormatOf format, const float* largest, int64_t count,
                                 uint32_t* bits) {
    const float floor = args_.amax_floor, tensor_scale = tensor_scale_, factor = factor_;
    const bool power = args_.power, packed = packed_;
    int bounded = factor >= 0;
#pragma omp simd reduction(& : bounded)
    for (int64_t i = 0; i < count; ++i) {
      const GroupScale scale =
          group_scale(format(), largest[i], floor, power, packed, tensor_scale);
      bits[i] = scale.bits;
      // what becomes 0 does so by any divisor
      const bool finite = largest[i] * factor < std::numeric_limits<float>::infinity();
      const bool vanishes = finite & (factor >= 0) & ((scale.divisor == 0) | (largest[i] == 0));
      const float divisor = vanishes ? 1 : scale.divisor;
      bounded &= finite & is_in_range(divisor);
      divisors_[i] = divisor;
      reciprocals_[i] = 1 / divisor;
    }
    bounded_ = bounded;
  }

  const QuantizedArgs& args_;
  const QuantizeLoop& loops_;
  const bool packed_;
  const float tensor_scale_, factor_;
  bool bounded_;
  float divisors_[kMostGroups], reciprocals_[kMostGroups];
  alignas(64) uint8_t codes_[kTile];
};

}  // namespace fused_acts::cpu
