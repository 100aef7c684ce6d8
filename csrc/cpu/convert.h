// Conversion between 16-bit storage and float for the portable loops.
#pragma once

#include <cstdint>

#include "math/storage.h"

namespace fused_acts::cpu {

void to_float(const BFloat16* source, float* target, int64_t n) noexcept;
void to_float(const Float16* source, float* target, int64_t n) noexcept;
// Round to nearest even.
void from_float(const float* source, BFloat16* target, int64_t n) noexcept;
void from_float(const float* source, Float16* target, int64_t n) noexcept;

}  // namespace fused_acts::cpu
