// The operators of quantised results.
#include <algorithm>
#include <tuple>

#include "ops/backend.h"
#include "ops/glu_options.h"
#include "ops/library.h"
#include "ops/overlap.h"
#include "ops/quantized_args.h"
#include "ops/units.h"

namespace fused_acts {
namespace {

constexpr int64_t kGrain = 16384;  // elements

// In float32, which the loops that round nothing to 16 bits read what columns and rows have in.
class WidenedOptions {
 public:
  WidenedOptions(const Options& options, const View& gate) : options_(options) {
    const Tensor** const operands[] = {&options_.gate_bias, &options_.up_bias, &options_.parameter,
                                       &options_.row_weight};
    OptionalTensor* copy = copies_;
    for (const Tensor** operand : operands) {
      if (!*operand) continue;
      const View t(**operand, "");
      if (t.dtype != gate.dtype) continue;
      *copy = new_tensor(t, dtype_number(DType::kFloat32), t.rank, t.sizes);
      copy_values(**copy, **operand);
      *operand = &**copy++;
    }
  }
  WidenedOptions(const WidenedOptions&) = delete;
  const Options& options() const { return options_; }

 private:
  Options options_;
  OptionalTensor copies_[4];
};

void run_tiles(const QuantizedArgs& args) {
  const int64_t tiles = cpu::quantized_tiles(args);
  if (tiles == 0) return;
  const int64_t tile = std::max<int64_t>(args.glu.rows * args.glu.cols / tiles, 1);
  parallel_for(tiles, std::max<int64_t>(kGrain / tile, 1),
               [&](int64_t begin, int64_t end) { cpu::glu_quantized(args, begin, end); });
}

void run(const View& gate, const QuantizedArgs& args) {
  const Scales& scales = args.scales;
  const bool has_scales =
      scales.data && scales.matrices * scales.padded_rows * scales.padded_groups > 0;
  if (args.glu.rows * args.glu.cols == 0 && !has_scales) return;
  run_where_it_is(
      gate, [&](void* stream) { return args.glu.unit->cuda.quantized(args, stream); },
      [&] { run_tiles(args); });
}

void run(const Tensor& gate, const OptionalTensor& up, const Options& options,
         const QuantizedCall& call) {
  if (!call.args.single || !call.unit.gate.is_cpu()) return run(call.unit.gate, call.args);
  const WidenedOptions widened(options, call.unit.gate);
  const GluCall unit = checked_call(gate, up, widened.options());
  QuantizedArgs args = call.args;
  args.glu = unit.args;
  run(unit.gate, args);
}

Tensor new_result(const View& like, const Shape& shape) {
  return new_strided(like, shape.dtype, shape.rank(), shape.sizes.data(), shape.strides.data());
}

std::tuple<Tensor, Tensor> quantized(const Tensor& gate, const OptionalTensor& up,
                                     const Options& options, const Quantization& wanted) {
  QuantizedCall call = checked_call(gate, up, options, wanted);
  Tensor values = new_result(call.unit.gate, call.values);
  Tensor scales = new_result(call.unit.gate, call.scales);
  call.args.values = {data_of(values), call.values.sizes.back()};
  if (call.args.format != Format::kFp8Tensor) call.args.scales.data = data_of(scales);
  run(gate, up, options, call);
  return {std::move(values), std::move(scales)};
}

// Nothing that is written may be read.
void check_overlap(const View& out, const char* name, const QuantizedCall& call,
                   const Options& options, const Quantization& wanted) {
  check_apart(out, name, call.unit.gate, call.unit.name());
  if (call.unit.up) check_apart(out, name, *call.unit.up, "up");
  const auto check = [&](const Tensor* t, const char* what) {
    if (t) check_apart(out, name, View(*t, what), what);
  };
  check(options.gate_bias, call.args.glu.unit->is_unary ? "bias" : "gate_bias");
  check(options.up_bias, "up_bias");
  check(options.parameter, "parameter");
  check(options.row_weight, "weight");
  check(options.experts, "offs, counts or row_expert");
  check(wanted.scale, "scale");
}

void quantized_out(const Tensor& gate, const OptionalTensor& up, const Options& options,
                   const Quantization& wanted, const Tensor& values_tensor,
                   const Tensor& scales_tensor) {
  QuantizedCall call = checked_call(gate, up, options, wanted);
  const View values(values_tensor, "values");
  check_result(values, "values", call.values, call.unit.gate);
  if (values.numel > 0 && !is_matrix(values))
    fail("values: expected dense, evenly spaced rows, got strides ", strides_of(values),
         " of shape ", shape_of(values));
  check_elements_apart(values, "values");
  check_overlap(values, "values", call, options, wanted);
  if (values.numel > 0) call.args.values = matrix_of(values);
  if (call.args.format != Format::kFp8Tensor) {
    const View scales(scales_tensor, "scales");
    check_result(scales, "scales", call.scales, call.unit.gate);
    check_strides(scales, "scales", call.scales);
    check_overlap(scales, "scales", call, options, wanted);
    check_apart(scales, "scales", values, "values");
    call.args.scales.data = scales.data;
  }
  run(gate, up, options, call);
}

#define FUSED_ACTS_QUANTIZATION                                                     \
  int64_t format, int64_t scale_layout, bool power, bool single, double amax_floor, \
      const OptionalTensor &scale
#define FUSED_ACTS_WANTED \
  Quantization { format, scale_layout, power, single, amax_floor, pointer(scale) }

std::tuple<Tensor, Tensor> glu_quantized(const Tensor& gate, const OptionalTensor& up,
                                         FUSED_ACTS_OPTIONS, FUSED_ACTS_QUANTIZATION,
                                         FUSED_ACTS_OF_ROWS) {
  return quantized(gate, up, FUSED_ACTS_GIVEN, FUSED_ACTS_WANTED);
}

void glu_quantized_out(const Tensor& gate, const OptionalTensor& up, FUSED_ACTS_OPTIONS,
                       FUSED_ACTS_QUANTIZATION, const Tensor& values, const Tensor& scales,
                       FUSED_ACTS_OF_ROWS) {
  quantized_out(gate, up, FUSED_ACTS_GIVEN, FUSED_ACTS_WANTED, values, scales);
}

#undef FUSED_ACTS_WANTED
#undef FUSED_ACTS_QUANTIZATION

// ---- Blocks of a matrix as it is ----

std::tuple<Tensor, Tensor> quantize_blocks(const Tensor& x_tensor) {
  const View x(x_tensor, "x");
  QuantizedArgs args;
  args.identity = true;
  args.format = Format::kFp8Block128;
  args.glu.unit = &unit_at(0);
  args.glu.dtype = checked_dtype(x, "x");
  if (args.glu.dtype == DType::kFloat64)
    fail("x: expected float32, float16 or bfloat16, got float64");
  if (x.rank == 0) fail("x: expected at least one dimension, got a 0-d tensor");
  check_device(x, "x");
  args.glu.cols = x.last_size();
  args.glu.rows = args.glu.cols == 0 ? 0 : x.numel / args.glu.cols;
  const ReadMatrix matrix(x);
  args.glu.gate = matrix.matrix;
  const Shape values_shape = shape_of_values(args, x);
  const Shape scales_shape = shape_of_scales(&args, ScaleLayout::kRow, x, false);
  Tensor values = new_result(x, values_shape), scales = new_result(x, scales_shape);
  args.values = {data_of(values), args.glu.cols};
  args.scales.data = data_of(scales);
  run(x, args);
  return {std::move(values), std::move(scales)};
}

Tensor dequantize_blocks(const Tensor& values_tensor, const Tensor& scales_tensor, int64_t dtype) {
  const View values(values_tensor, "values"), scales(scales_tensor, "scales");
  if (dtype < 1 || dtype > 3)
    fail("dtype: expected float32, float16 or bfloat16, 1 to 3, got ", dtype);
  if (values.rank == 0) fail("values: expected at least one dimension, got a 0-d tensor");
  check_device(values, "values");
  if (values.dtype != e4m3_dtype())
    fail("values: expected dtype float8_e4m3fn, got ", dtype_name(values));
  std::vector<int64_t> sizes(values.sizes, values.sizes + values.rank);
  const int64_t cols = sizes.back();
  sizes.back() = (cols + 127) / 128;
  check_result(scales, "scales", contiguous(dtype_number(DType::kFloat32), sizes), values);
  const Tensor dense_values = is_contiguous(values) ? values_tensor : copy_of(values);
  const Tensor dense_scales =
      is_contiguous(scales) && scales.aligned ? scales_tensor : copy_of(scales);
  const auto type = static_cast<DType>(dtype);
  Tensor out = new_tensor(values, dtype_number(type), values.rank, values.sizes);
  if (values.numel == 0) return out;
  const DequantizeArgs args{type,
                            values.numel / cols,
                            cols,
                            static_cast<const uint8_t*>(data_of(dense_values)),
                            static_cast<const float*>(data_of(dense_scales)),
                            data_of(out)};
  run_where_it_is(
      values, [&](void* stream) { return cuda::dequantize(args, stream); },
      [&] {
        parallel_for(args.rows, std::max<int64_t>(kGrain / cols, 1),
                     [&](int64_t begin, int64_t end) { cpu::dequantize(args, begin, end); });
      });
  return out;
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("glu_quantized", TORCH_BOX(&glu_quantized));
  m.impl("glu_quantized_out", TORCH_BOX(&glu_quantized_out));
  m.impl("quantize_blocks", TORCH_BOX(&quantize_blocks));
  m.impl("dequantize_blocks", TORCH_BOX(&dequantize_blocks));
}

}  // namespace

#define QUANTIZATION \
  ", int format, int scale_layout, bool power, bool single, float amax_floor, Tensor? scale"

FUSED_ACTS_DEFINE(m) {
  m.def("glu_quantized(Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS_SCHEMA
            QUANTIZATION FUSED_ACTS_OF_ROWS_SCHEMA ") -> (Tensor values, Tensor scales)");
  m.def("glu_quantized_out(Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS_SCHEMA QUANTIZATION
        ", Tensor(a!) values, Tensor(b!) scales" FUSED_ACTS_OF_ROWS_SCHEMA ") -> ()");
  m.def("quantize_blocks(Tensor x) -> (Tensor values, Tensor scales)");
  m.def("dequantize_blocks(Tensor values, Tensor scales, int dtype) -> Tensor");
}

#undef QUANTIZATION

FUSED_ACTS_IMPLEMENT(CPU, m) { implement(m); }
FUSED_ACTS_IMPLEMENT(CUDA, m) { implement(m); }

}  // namespace fused_acts
