// From the tensors of a quantised call to its QuantizedArgs, and the shapes of its results.
#pragma once

#include <vector>

#include "kernels/quantized.h"
#include "ops/glu_args.h"

namespace fused_acts {

// What is asked for beside the options of the unit.
struct Quantization {
  int64_t format, layout;
  bool power, single;
  double amax_floor;
  const Tensor* scale = nullptr;
};

// The shape, strides and dtype that a result is to have.
struct Shape {
  int32_t dtype;
  std::vector<int64_t> sizes, strides;

  int64_t rank() const { return static_cast<int64_t>(sizes.size()); }
};

Shape contiguous(int32_t dtype, std::vector<int64_t> sizes);

Shape shape_of_values(const QuantizedArgs& args, const View& gate);

// Sets all of args->scales but the data.
Shape shape_of_scales(QuantizedArgs* args, ScaleLayout layout, const View& gate, bool of_experts);

// A checked call, but for where its results go.
struct QuantizedCall {
  GluCall unit;
  QuantizedArgs args;
  Shape values, scales;
};

QuantizedCall checked_call(const Tensor& gate, const OptionalTensor& up, const Options& options,
                           const Quantization& wanted);

// Throws unless `t` is a place for a result of the shape.
void check_result(const View& t, const char* name, const Shape& shape, const View& gate);
void check_strides(const View& t, const char* name, const Shape& shape);

}  // namespace fused_acts
