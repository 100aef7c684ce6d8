// A kernel of quantised results as it would be for one unit and format alone, of bfloat16 in two
// halves of a row: KERNEL, VECTORS, FORMAT and POWER by -D. What a call decides at run time is
// decided here.
#include "cuda/quantized_params.cuh"

namespace fused_acts::cuda {

struct DecidedParams : QuantizedParams {
  static constexpr Format format = Format::FORMAT;
  static constexpr bool power = POWER, packed = false, single = false, zeroes_padding = false;
  static constexpr Variant variant = Variant::swiglu;
  static constexpr bool plain = true, identity = false, whole = true, keeps = true;
  static constexpr int step = 1;
  static constexpr int64_t block = 0;
  static constexpr uint32_t vectors = 256;
  static constexpr int64_t group = group_columns(format);
  static constexpr int log2_group = group == 128 ? 3 : group == 32 ? 1 : 0;  // of 16 columns each
};

}  // namespace fused_acts::cuda

#define QuantizedParams DecidedParams
#include "cuda/quantized_kernels.cuh"

template __global__ void
fused_acts::cuda::KERNEL<fused_acts::cuda::QuantizedConfig<fused_acts::BFloat16, false, VECTORS>>(
    const __grid_constant__ fused_acts::cuda::DecidedParams);
