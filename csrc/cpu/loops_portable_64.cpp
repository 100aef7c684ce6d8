// The portable row loops of 64-bit storage.
#include "cpu/loops_portable.h"

namespace fused_acts::cpu {

template RowLoop portable_row_loop<double>(Direction, Variant);

}  // namespace fused_acts::cpu
