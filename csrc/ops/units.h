// The units that calls name by an index: rows of the tables, and units of one's own.
#pragma once

#include <cstdint>

#include "kernels/unit_code.h"

namespace fused_acts {

// Throws where there is no unit of the index.
const UnitCode& unit_at(int64_t index);

}  // namespace fused_acts
