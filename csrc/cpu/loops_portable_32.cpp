// The portable row loops of 32-bit storage.
#include "cpu/loops_portable.h"

namespace fused_acts::cpu {

template RowLoop portable_row_loop<float>(Direction, Variant);

}  // namespace fused_acts::cpu
