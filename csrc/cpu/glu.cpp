// From a range of a call to the blocks of it.
#include "cpu/glu_call.h"

namespace fused_acts::cpu {

void glu_elements(Direction direction, const GluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype,
              [&](auto t) { Call<decltype(t)>(direction, args).run_elements(begin, end); });
}

int64_t column_tiles(const GluArgs& args) { return (args.cols + kTile - 1) / kTile; }

int64_t tile_count(const GluArgs& args) { return segments_of(args).count() * column_tiles(args); }

void glu_tiles(Direction direction, const GluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    Call<decltype(t)> call(direction, args);
    for (int64_t i = begin; i < end; ++i) call.run_tile(i);
  });
}

}  // namespace fused_acts::cpu
