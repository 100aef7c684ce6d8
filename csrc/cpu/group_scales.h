// What groups of columns are scaled by, and their quantisation.
#pragma once

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
    bounded_ = loops_.scale({args_.format, args_.power, packed_, args_.amax_floor, tensor_scale_,
                             factor_, count, largest, bits, divisors_, reciprocals_});
  }

  // Of the one scale that is given.
  void set_given(float largest) {
    divisors_[0] = tensor_scale_;
    reciprocals_[0] = 1 / tensor_scale_;
    bounded_ = largest <= kLargestE4m3 * tensor_scale_ && tensor_scale_ >= kLeastDivisor &&
               tensor_scale_ <= kMostDivisor;
  }

  void quantize(const float* y, int64_t n, int64_t group, uint8_t* q) {
    const bool packs = args_.format == Format::kNvfp4;
    loops_.quantize({args_.format, bounded_, n, group, factor_, y, divisors_, reciprocals_,
                     packs ? codes_ : q});
    if (packs) loops_.pack(codes_, n, q);
  }

 private:
  const QuantizedArgs& args_;
  const QuantizeLoop& loops_;
  const bool packed_;
  const float tensor_scale_, factor_;
  bool bounded_;
  float divisors_[kMostGroups], reciprocals_[kMostGroups];
  alignas(64) uint8_t codes_[kTile];
};

}  // namespace fused_acts::cpu
