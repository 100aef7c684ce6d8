#include "general_loops.h"

template fused_acts::cpu::GeneralLoop fused_acts::cpu::find_portable_loop<double>(
    fused_acts::Direction, fused_acts::Variant);
