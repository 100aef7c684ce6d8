#include "general_loops.h"

template fused_acts::cpu::GeneralLoop fused_acts::cpu::find_portable_loop<fused_acts::Float16>(
    fused_acts::Direction, fused_acts::Variant);
template fused_acts::cpu::GeneralLoop fused_acts::cpu::find_portable_loop<fused_acts::BFloat16>(
    fused_acts::Direction, fused_acts::Variant);
