#include "cpu/loops_portable.h"

template fused_acts::cpu::RowLoop fused_acts::cpu::find_portable_loop<fused_acts::Float16>(
    fused_acts::Direction, fused_acts::Variant);
template fused_acts::cpu::RowLoop fused_acts::cpu::find_portable_loop<fused_acts::BFloat16>(
    fused_acts::Direction, fused_acts::Variant);
