// The operators of quantised results.
#include "kernels/quantized.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "ops/backend.h"
#include "ops/glu_options.h"
#include "ops/library.h"
#include "ops/overlap.h"

namespace fused_acts {
namespace {

constexpr int64_t kGrain = 16384;  // elements

constexpr const char* kFormats[] = {"fp8_tensor",   "fp8_row", "int8_row",
                                    "fp8_block128", "mxfp8",   "nvfp4"};
constexpr const char* kLayouts[] = {"row", "col", "packed_ue8m0", "swizzled"};

// What is asked for beside the options of the unit.
struct Quantization {
  int64_t format, layout;
  bool power, single;
  double amax_floor;
  const Tensor* scale = nullptr;
};

int64_t ceil_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

Format format_of(const Quantization& wanted) {
  constexpr auto kCount = static_cast<int64_t>(Format::kCount);
  if (wanted.format < 0 || wanted.format >= kCount)
    fail("format: expected an index below ", kCount, ", got ", wanted.format);
  return static_cast<Format>(wanted.format);
}

// The layouts that scales of a format may have, a bit each.
int layouts_of(Format format) {
  const auto bit = [](ScaleLayout layout) { return 1 << static_cast<int>(layout); };
  const int row = bit(ScaleLayout::kRow), col = bit(ScaleLayout::kCol);
  const int packed = bit(ScaleLayout::kPackedUe8m0), swizzled = bit(ScaleLayout::kSwizzled);
  switch (format) {
    case Format::kFp8Tensor:
      return row;
    case Format::kFp8Row:
    case Format::kInt8Row:
      return row | col;
    case Format::kFp8Block128:
      return row | col | packed;
    case Format::kMxfp8:
      return row | packed | swizzled;
    default:
      return row | swizzled;
  }
}

ScaleLayout layout_of(const Quantization& wanted, Format format) {
  constexpr auto kCount = static_cast<int64_t>(ScaleLayout::kCount);
  if (wanted.layout < 0 || wanted.layout >= kCount)
    fail("scale_layout: expected an index below ", kCount, ", got ", wanted.layout);
  const int allowed = layouts_of(format);
  if (!(allowed >> wanted.layout & 1)) {
    std::ostringstream names;
    for (int i = 0; i < kCount; ++i)
      if (allowed >> i & 1) names << (names.tellp() > 0 ? " or " : "") << kLayouts[i];
    fail("scale_layout: expected ", names.str(), " with ", kFormats[wanted.format], ", got ",
         kLayouts[wanted.layout]);
  }
  return static_cast<ScaleLayout>(wanted.layout);
}

void check_rounding(const Quantization& wanted, Format format, ScaleLayout layout) {
  const char* const name = kFormats[wanted.format];
  if (wanted.power && takes_scale(format))
    fail("scale_rounding: expected none with ", name, ", got pow2");
  if (layout == ScaleLayout::kPackedUe8m0 && format == Format::kFp8Block128 && !wanted.power)
    fail("scale_rounding: expected pow2 with scale_layout packed_ue8m0, got none");
  const double floor = wanted.amax_floor;
  if (!(floor >= 0) || !std::isfinite(static_cast<float>(floor)))
    fail("amax_floor: expected a finite number that is not negative, got ", floor);
  if (format == Format::kFp8Tensor && floor != 0)
    fail("amax_floor: expected 0 with ", name, ", whose scale is given, got ", floor);
}

const float* checked_scale(const Quantization& wanted, Format format, const View& gate) {
  const char* const name = kFormats[wanted.format];
  if (!wanted.scale) {
    if (takes_scale(format)) fail("scale: expected a tensor of one float32 with ", name);
    return nullptr;
  }
  if (!takes_scale(format)) fail("scale: expected none with ", name);
  const View scale(*wanted.scale, "scale");
  if (scale.dtype != dtype_number(DType::kFloat32))
    fail("scale: expected dtype float32, got ", dtype_name(scale));
  if (!same_device(scale, gate))
    fail("scale: expected the device of gate, ", device_name(gate), ", got ", device_name(scale));
  if (scale.numel != 1) fail("scale: expected one element, got shape ", shape_of(scale));
  if (!scale.aligned) fail("scale: expected an aligned tensor");
  return static_cast<const float*>(scale.data);
}

// The shape, strides and dtype that a result is to have.
struct Shape {
  int32_t dtype;
  std::vector<int64_t> sizes, strides;

  int64_t rank() const { return static_cast<int64_t>(sizes.size()); }
};

Shape contiguous(int32_t dtype, std::vector<int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  return {dtype, std::move(sizes), std::move(strides)};
}

Shape shape_of_values(const QuantizedArgs& args, const View& gate, int64_t cols) {
  std::vector<int64_t> sizes(gate.sizes, gate.sizes + gate.rank);
  sizes.back() = args.format == Format::kNvfp4 ? cols / 2 : cols;
  return contiguous(args.format == Format::kNvfp4     ? uint8_dtype()
                    : args.format == Format::kInt8Row ? int8_dtype()
                                                      : e4m3_dtype(),
                    std::move(sizes));
}

// Sets all of args.scales but the data.
Shape shape_of_scales(QuantizedArgs* args, ScaleLayout layout, const View& gate, bool of_experts) {
  if (args->format == Format::kFp8Tensor) return {dtype_number(DType::kFloat32), {0}, {1}};
  Scales& scales = args->scales;
  scales.layout = layout;
  scales.matrices = of_experts ? gate.sizes[0] : 1;
  scales.rows = 1;
  for (int64_t i = of_experts; i + 1 < gate.rank; ++i) scales.rows *= gate.sizes[i];
  const int64_t columns = group_columns(args->format);
  scales.groups = columns ? (args->glu.cols + columns - 1) / columns : 1;
  const int64_t rows_at_once = layout == ScaleLayout::kRow        ? 1
                               : layout == ScaleLayout::kSwizzled ? 128
                                                                  : 4;
  const bool words = layout == ScaleLayout::kPackedUe8m0;
  scales.padded_rows = ceil_to(scales.rows, rows_at_once);
  scales.padded_groups =
      words || layout == ScaleLayout::kSwizzled ? ceil_to(scales.groups, 4) : scales.groups;
  const bool one_byte = words || args->format == Format::kMxfp8 || args->format == Format::kNvfp4;
  scales.element_size = one_byte ? 1 : 4;
  const int32_t dtype = words                            ? int32_dtype()
                        : args->format == Format::kMxfp8 ? e8m0_dtype()
                        : args->format == Format::kNvfp4 ? e4m3_dtype()
                                                         : dtype_number(DType::kFloat32);
  if (args->glu.cols == 0) scales.rows = 0;  // all there is are padding

  std::vector<int64_t> sizes;
  if (layout == ScaleLayout::kRow) {
    sizes.assign(gate.sizes, gate.sizes + gate.rank);
    sizes.back() = scales.groups;
    return contiguous(dtype, std::move(sizes));
  }
  if (of_experts) sizes.push_back(scales.matrices);
  sizes.push_back(scales.padded_rows);
  sizes.push_back(words ? scales.padded_groups / 4 : scales.padded_groups);
  Shape shape = contiguous(dtype, std::move(sizes));
  if (layout != ScaleLayout::kSwizzled) {
    const size_t rank = shape.sizes.size();
    shape.strides[rank - 2] = 1;
    shape.strides[rank - 1] = scales.padded_rows;
  }
  return shape;
}

// A checked call, but for where its results go.
struct QuantizedCall {
  GluCall unit;
  QuantizedArgs args;
  Shape values, scales;
};

QuantizedCall checked_call(const Tensor& gate, const OptionalTensor& up, const Options& options,
                           const Quantization& wanted) {
  const Format format = format_of(wanted);
  const ScaleLayout layout = layout_of(wanted, format);
  check_rounding(wanted, format, layout);
  QuantizedCall call{checked_call(gate, up, options), {}, {}, {}};
  const char* const name = call.unit.name();
  QuantizedArgs& args = call.args;
  args.glu = call.unit.args;
  if (args.glu.dtype == DType::kFloat64)
    fail(name, ": expected float32, float16 or bfloat16, got float64");
  if (format == Format::kNvfp4 && args.glu.cols % 2 != 0)
    fail(name, ": expected an even number of columns with nvfp4, got ", args.glu.cols);
  args.format = format;
  args.power = wanted.power;
  args.single = wanted.single && args.glu.dtype != DType::kFloat32;
  args.amax_floor = static_cast<float>(wanted.amax_floor);
  args.tensor_scale = checked_scale(wanted, format, call.unit.gate);
  call.values = shape_of_values(args, call.unit.gate, args.glu.cols);
  const bool of_experts = options.experts && (options.rows & ~kZeroPadding) == kCounts;
  call.scales = shape_of_scales(&args, layout, call.unit.gate, of_experts);
  return call;
}

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
      gate, [&](void* stream) { return cuda::glu_quantized(args, stream); },
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

void check_result(const View& t, const char* name, const Shape& shape, const View& gate) {
  Shape wanted = shape;
  View expected = t;  // for its words in messages
  expected.dtype = shape.dtype;
  expected.rank = shape.rank();
  expected.sizes = wanted.sizes.data();
  expected.strides = wanted.strides.data();
  if (t.dtype != shape.dtype)
    fail(name, ": expected dtype ", dtype_name(expected), ", got ", dtype_name(t));
  if (!same_device(t, gate))
    fail(name, ": expected the device of gate, ", device_name(gate), ", got ", device_name(t));
  if (!same_sizes(t, expected.rank, expected.sizes))
    fail(name, ": expected shape ", shape_of(expected), ", got ", shape_of(t));
}

void check_strides(const View& t, const char* name, const Shape& shape) {
  for (int64_t i = 0; i < t.rank; ++i)
    if (t.sizes[i] != 1 && t.numel > 0 && t.strides[i] != shape.strides[i])
      fail(name, ": expected the strides that new ones have, got ", strides_of(t), " of shape ",
           shape_of(t));
  if (!t.aligned) fail(name, ": expected an aligned tensor");
}

// Nothing that is written may be read.
void check_overlap(const View& out, const char* name, const QuantizedCall& call,
                   const Options& options, const Quantization& wanted) {
  check_apart(out, name, call.unit.gate, call.unit.name());
  if (call.unit.up) check_apart(out, name, *call.unit.up, "up");
  const auto check = [&](const Tensor* t, const char* what) {
    if (t) check_apart(out, name, View(*t, what), what);
  };
  check(options.gate_bias, is_unary(call.args.glu.variant) ? "bias" : "gate_bias");
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
  args.glu.variant = Variant{};
  args.glu.dtype = checked_dtype(x, "x");
  if (args.glu.dtype == DType::kFloat64)
    fail("x: expected float32, float16 or bfloat16, got float64");
  if (x.rank == 0) fail("x: expected at least one dimension, got a 0-d tensor");
  check_device(x, "x");
  args.glu.cols = x.last_size();
  args.glu.rows = args.glu.cols == 0 ? 0 : x.numel / args.glu.cols;
  const ReadMatrix matrix(x);
  args.glu.gate = matrix.matrix;
  const Shape values_shape = shape_of_values(args, x, args.glu.cols);
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
