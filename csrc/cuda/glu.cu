// A call to a gated unit: plan, kernel, launch.
#include <algorithm>
#include <cstdlib>

#include "cuda/launch.h"
#include "kernels/glu.h"

namespace fused_acts::cuda {
namespace {

// What runs on a device of sm_100 or later is older code when the build has only older PTX for it.
int widest_access() {
  // Lets tests run the widest kernels on a device that does not tell what code it runs.
  static const char* const bytes = std::getenv("FUSED_ACTS_WIDEST_ACCESS");
  const int widest = bytes ? std::atoi(bytes) : code_architecture() >= 100 ? kWidestAccess : 16;
  return std::min(widest, widest_compiled());
}

int run(Direction direction, const GluArgs& args, void* cuda_stream) {
  if (args.rows == 0 || args.cols == 0) return cudaSuccess;
  const auto stream = static_cast<cudaStream_t>(cuda_stream);
  const bool second_order = direction == Direction::kDoubleBackward;
  if (!second_order) {
    if (const auto plan = make_flat_plan(args, widest_access()))
      return visit_wide(args.dtype,
                        [&](auto t) { return launch_flat<decltype(t)>(args, *plan, stream); });
  }
  const RowPlan plan = make_row_plan(args, second_order, widest_access());
  if (plan.tiles * plan.segments >= kThreadsEnd) return cudaErrorInvalidConfiguration;
  if (plan.wide)
    return visit_wide(args.dtype, [&](auto t) { return launch_rows<decltype(t)>(plan, stream); });
  return visit_dtype(args.dtype,
                     [&](auto t) { return launch_general<decltype(t)>(direction, plan, stream); });
}

}  // namespace

int glu_forward(const GluArgs& args, void* stream) {
  return run(Direction::kForward, args, stream);
}

int glu_backward(const GluArgs& args, void* stream) {
  if (!args.grad_gate.data && !args.grad_up.data && !args.segment_rows && !args.weight_sums &&
      !args.product)
    return cudaSuccess;
  return run(Direction::kBackward, args, stream);
}

int64_t column_tiles(const GluArgs& args) {
  return make_row_plan(args, false, widest_access()).tiles;
}

int glu_double_backward(const GluArgs& args, void* stream) {
  return run(Direction::kDoubleBackward, args, stream);
}

}  // namespace fused_acts::cuda
