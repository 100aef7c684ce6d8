#include "cpu/loops_portable.h"

template fused_acts::cpu::RowLoop fused_acts::cpu::find_portable_loop<double>(
    fused_acts::Direction, fused_acts::Variant);
