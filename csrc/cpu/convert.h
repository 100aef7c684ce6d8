// Conversion between 16-bit storage and float for the portable loops.
#pragma once

#include <cstdint>

#include "../numeric.h"

namespace fused_acts::cpu {

void to_float(const BFloat16* source, float* target, int64_t n);
void to_float(const Float16* source, float* target, int64_t n);
// Round to nearest even.
void from_float(const float* source, BFloat16* target, int64_t n);
void from_float(const float* source, Float16* target, int64_t n);

}  // namespace fused_acts::cpu
