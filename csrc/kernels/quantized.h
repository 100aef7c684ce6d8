// The seam of quantised results: values of eight or four bits and their scales, of a gated unit, an
// activation, or of a matrix as it is; and back.
#pragma once

#include "kernels/glu.h"
#include "math/quantize.h"

namespace fused_acts {

// Where the scale of a group of a row is.
enum class ScaleLayout : int {
  kRow,          // [rows, groups]
  kCol,          // columns first, of rows padded to 4
  kPackedUe8m0,  // the same of words of 4 groups, a byte each: groups are padded to 4 too
  kSwizzled,     // tiles of 128 rows and 4 groups, to which both are padded
  kCount
};

// All scales: matrices one behind the other, of rows that are padded each.
struct Scales {
  void* data = nullptr;
  ScaleLayout layout = ScaleLayout::kRow;
  int element_size = 4;  // a float, or 1 byte of e8m0 or e4m3
  int64_t matrices = 1, rows = 0, groups = 0;
  int64_t padded_rows = 0, padded_groups = 0;  // what there is memory for, all of it written

  FUSED_ACTS_INLINE int64_t offset(int64_t matrix, int64_t row, int64_t group) const {
    const int64_t first = matrix * padded_rows * padded_groups;
    switch (layout) {
      case ScaleLayout::kRow:
        return first + row * groups + group;
      case ScaleLayout::kCol:
        return first + group * padded_rows + row;
      case ScaleLayout::kPackedUe8m0:
        return first + (group / 4 * padded_rows + row) * 4 + group % 4;
      default:
        return first + (row / 128 * (padded_groups / 4) + group / 4) * 512 + row % 32 * 16 +
               row / 32 % 4 * 4 + group % 4;
    }
  }
  // What stands where no row or group is: 1, or 0 in 8 bits.
  FUSED_ACTS_INLINE uint32_t padding_bits() const { return element_size == 4 ? 0x3f800000 : 0; }
};

// One call. Rows of padding are not read; their scales are written, and their values 0 if
// glu.zeroes_padding. Without rows, or columns, there may still be scales of padding.
struct QuantizedArgs {
  GluArgs glu;            // of a forward pass without out
  bool identity = false;  // glu.gate as it is, no unit of it
  bool single = false;    // not rounded to the type of gate before
  Format format = Format::kFp8Tensor;
  bool power = false;                   // scales are powers of two
  float amax_floor = 0;                 // of a largest magnitude
  const float* tensor_scale = nullptr;  // where the format takes one, beside the matrices
  Matrix values;                        // bytes, [rows, cols], or [rows, cols / 2] of e2m1
  Scales scales;                        // no data where the one scale is given

  int64_t group() const {
    const int64_t columns = group_columns(format);
    return columns ? columns : glu.cols;
  }
};

// Of format fp8_block128 without options, its scales by rows: out = values * scales.
struct DequantizeArgs {
  DType dtype;
  int64_t rows, cols;
  const uint8_t* values;  // dense
  const float* scales;    // dense
  void* out;              // dense
};

namespace cpu {

void glu_quantized(const QuantizedArgs& args, int64_t begin, int64_t end);  // of quantized_tiles
int64_t quantized_tiles(const QuantizedArgs& args);
void dequantize(const DequantizeArgs& args, int64_t begin, int64_t end);  // rows

}  // namespace cpu

namespace cuda {

int glu_quantized(const QuantizedArgs& args, void* stream);
int dequantize(const DequantizeArgs& args, void* stream);

}  // namespace cuda
}  // namespace fused_acts
