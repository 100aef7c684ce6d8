// The portable row loops of 16-bit storage.
#include "cpu/loops_portable.h"

namespace fused_acts::cpu {

template RowLoop portable_row_loop<Float16>(Direction, Variant);
template RowLoop portable_row_loop<BFloat16>(Direction, Variant);

}  // namespace fused_acts::cpu
