#include "general_loops.h"

template fused_acts::cpu::TileLoop<fused_acts::Math16<float>::Real>
    fused_acts::cpu::find_tile_loop<fused_acts::Math16<float>>(Direction, Variant);
