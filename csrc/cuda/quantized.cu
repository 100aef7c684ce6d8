// A call with a quantised result.
#include "cuda/launch.h"

namespace fused_acts::cuda {

int glu_quantized(const QuantizedArgs& args, void* stream) {
  return visit_wide(args.glu.dtype, [&](auto t) {
    return launch_quantized<decltype(t)>(args, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace fused_acts::cuda
