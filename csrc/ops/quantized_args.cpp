// The checks of a quantised call, and the shapes of its results.
#include "ops/quantized_args.h"

#include <algorithm>
#include <cmath>

namespace fused_acts {
namespace {

constexpr const char* kFormats[] = {"fp8_tensor",   "fp8_row", "int8_row",
                                    "fp8_block128", "mxfp8",   "nvfp4"};
constexpr const char* kLayouts[] = {"row", "col", "packed_ue8m0", "swizzled"};

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

}  // namespace

Shape contiguous(int32_t dtype, std::vector<int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  return {dtype, std::move(sizes), std::move(strides)};
}

Shape shape_of_values(const QuantizedArgs& args, const View& gate) {
  std::vector<int64_t> sizes(gate.sizes, gate.sizes + gate.rank);
  sizes.back() = args.format == Format::kNvfp4 ? args.glu.cols / 2 : args.glu.cols;
  return contiguous(args.format == Format::kNvfp4     ? uint8_dtype()
                    : args.format == Format::kInt8Row ? int8_dtype()
                                                      : e4m3_dtype(),
                    std::move(sizes));
}

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
    shape.strides[rank - 1] = std::max<int64_t>(scales.padded_rows, 1);
  }
  return shape;
}

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
  call.values = shape_of_values(args, call.unit.gate);
  const bool of_experts = options.experts && (options.rows & ~kZeroPadding) == kCounts;
  call.scales = shape_of_scales(&args, layout, call.unit.gate, of_experts);
  return call;
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

}  // namespace fused_acts
