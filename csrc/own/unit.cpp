// What a library of a unit of one's own, compiled with FUSED_ACTS_OWN, shows of itself.
#include "kernels/unit_table.h"

extern "C" __attribute__((visibility("default"))) const fused_acts::UnitCode* fused_acts_unit() {
  static constexpr fused_acts::UnitCode kUnit = fused_acts::unit_code(fused_acts::Variant{});
  return &kUnit;
}
