// From a range of a quantised call to tiles: a unit into a scratch, and from there eight bits.
#include "kernels/quantized.h"

#include <algorithm>
#include <vector>

#include "cpu/glu_call.h"

namespace fused_acts::cpu {
namespace {

// Rows of a tile, and bytes of a scratch that holds whole rows: what stays in the nearer caches.
constexpr int64_t kTileRowsAtMost = 16, kScratchBytes = int64_t{256} << 10;

bool is_scaled_by_row(Format format) {
  return format == Format::kFp8Row || format == Format::kInt8Row;
}

int64_t tile_columns(const QuantizedArgs& args) {
  return is_scaled_by_row(args.format) ? std::max<int64_t>(args.glu.cols, 1) : kTile;
}

int64_t tile_rows(const QuantizedArgs& args) {
  const int64_t row = tile_columns(args) * (args.single ? 4 : dtype_size(args.glu.dtype));
  return std::clamp<int64_t>(kScratchBytes / row, 1, kTileRowsAtMost);
}

int64_t column_tiles_of(const QuantizedArgs& args) {
  const int64_t columns = tile_columns(args);
  return (args.glu.cols + columns - 1) / columns;
}

Segments tile_segments(const QuantizedArgs& args) { return args.glu.segments(tile_rows(args)); }

// Where there are scales of no row or group.
bool has_padded_scales(const Scales& scales) {
  return scales.data &&
         (scales.padded_rows != scales.rows || scales.padded_groups != scales.groups);
}

void write_scale(const Scales& scales, int64_t matrix, int64_t row, int64_t group, uint32_t bits) {
  const int64_t offset = scales.offset(matrix, row, group);
  if (scales.element_size == 4)
    static_cast<uint32_t*>(scales.data)[offset] = bits;
  else
    static_cast<uint8_t*>(scales.data)[offset] = static_cast<uint8_t>(bits);
}

void pad_scales(const Scales& scales) {
  for (int64_t matrix = 0; matrix < scales.matrices; ++matrix)
    for (int64_t row = 0; row < scales.padded_rows; ++row)
      for (int64_t group = row < scales.rows ? scales.groups : 0; group < scales.padded_groups;
           ++group)
        write_scale(scales, matrix, row, group, scales.padding_bits());
}

// Gate and up of some rows and columns in float32.
class Widened {
 public:
  Widened(const GluArgs& from, int64_t rows)
      : from_(from), loops_(loops_for(from.dtype)), gate_(rows * kTile), up_(rows * kTile) {}

  // Points `to` at the rows and columns.
  void read(int64_t row, int64_t rows, int64_t first, int64_t n, GluArgs* to) {
    for (int64_t i = 0; i < rows; ++i) {
      read(from_.gate, row + i, first, n, gate_.data() + i * kTile);
      if (from_.up.data) read(from_.up, row + i, first, n, up_.data() + i * kTile);
    }
    to->gate = origin_of(gate_.data(), row, first);
    if (from_.up.data) to->up = origin_of(up_.data(), row, first);
  }

  static Matrix origin_of(float* data, int64_t row, int64_t first) {
    return {data - (row * kTile + first), kTile};
  }

 private:
  void read(const Matrix& matrix, int64_t row, int64_t first, int64_t n, float* target) {
    const auto* source = static_cast<const uint16_t*>(matrix.data) + row * matrix.row_stride;
    if (from_.block) {
      for (int64_t i = first, count; i < first + n; i += count) {
        count = std::min(first + n - i, from_.block - i % from_.block);
        loops_.widen(source + i + i / from_.block * from_.block, target + (i - first), count);
      }
    } else if (from_.step == 2) {
      // the last one has no other behind it in the tensor
      loops_.widen(source + 2 * first, pairs_, 2 * n - 1);
      for (int64_t i = 0; i < n; ++i) target[i] = pairs_[2 * i];
    } else {
      loops_.widen(source + first, target, n);
    }
  }

  const GluArgs& from_;
  const Loops& loops_;
  std::vector<float> gate_, up_;
  float pairs_[2 * kTile];
};

// The call that computes what is quantised: of the type that it is rounded to.
GluArgs unit_of(const QuantizedArgs& args) {
  GluArgs unit = args.glu;
  unit.zeroes_padding = false;
  if (args.single && unit.dtype != DType::kFloat32) {
    unit.dtype = DType::kFloat32;
    unit.step = 1;
    unit.block = 0;
  }
  return unit;
}

// T is the storage type of what is quantised.
template <class T>
class Tiles {
 public:
  explicit Tiles(const QuantizedArgs& args)
      : args_(args),
        unit_(unit_of(args)),
        call_(Direction::kForward, unit_),
        segments_(tile_segments(args)),
        columns_(tile_columns(args)),
        column_tiles_(column_tiles_of(args)),
        widened_(args.glu, unit_.dtype == args.glu.dtype ? 0 : tile_rows(args)),
        scratch_(args.identity ? 0 : columns_ * tile_rows(args)) {
    call_.stay_in_caches();
  }

  void run(int64_t tile) {
    if (tile == segments_.count() * column_tiles_) return pad_scales(args_.scales);
    const Segment segment = segments_.at(tile / column_tiles_);
    const int64_t first = tile % column_tiles_ * columns_;
    const int64_t n = std::min(columns_, args_.glu.cols - first);
    if (!args_.identity) compute(segment, first, n);
    for (int64_t row = segment.begin; row < segment.end; ++row) {
      const RowKind kind =
          row < segment.live_end ? call_.kind_of(row, segment.expert) : RowKind::kPadding;
      if (kind == RowKind::kLive) quantize(row, computed(segment, row, first), first, n);
      if (kind == RowKind::kPadding) pad(row, first, n);
    }
  }

 private:
  void compute(const Segment& segment, int64_t first, int64_t n) {
    unit_.out = {scratch_.data() - (segment.begin * columns_ + first), columns_};
    const int64_t rows = segment.live_end - segment.begin;
    for (int64_t i = 0; i < n; i += kTile) {
      const int64_t count = std::min(kTile, n - i);
      if (unit_.dtype != args_.glu.dtype)
        widened_.read(segment.begin, rows, first + i, count, &unit_);
      call_.begin_tile(segment, first + i, count);
      call_.run_live_rows(segment.begin, rows, segment.expert, first + i, count);
    }
  }

  const T* computed(const Segment& segment, int64_t row, int64_t first) const {
    const Matrix& x = args_.glu.gate;
    if (args_.identity) return static_cast<const T*>(x.data) + row * x.row_stride + first;
    return scratch_.data() + (row - segment.begin) * columns_;
  }

  uint8_t* values_at(int64_t row, int64_t col) const {
    const int64_t offset = args_.format == Format::kNvfp4 ? col / 2 : col;
    return static_cast<uint8_t*>(args_.values.data) + row * args_.values.row_stride + offset;
  }

  void quantize(int64_t row, const T* y, int64_t first, int64_t n) {
    const int64_t group = args_.scales.data ? args_.group() : n;
    const float tensor_scale = args_.tensor_scale ? *args_.tensor_scale : 1.0f;
    for (int64_t i = 0; i < n; i += group) {
      const int64_t count = std::min(group, n - i);
      std::vector<float> y32(count);
      loops_for(unit_.dtype).widen(y + i, y32.data(), count);
      GroupScale scale{tensor_scale, 0};
      if (args_.scales.data) {
        uint32_t largest = 0;
        for (float x : y32) largest = std::max(largest, magnitude_of(x));
        scale = group_scale(args_.format, float_of(largest), args_.amax_floor, args_.power,
                            args_.scales.layout == ScaleLayout::kPackedUe8m0, tensor_scale);
        write_scale(args_.scales, row / args_.scales.rows, row % args_.scales.rows,
                    (first + i) / group, scale.bits);
      }
      uint8_t* const q = values_at(row, first + i);
      for (int64_t k = 0; k < count; ++k) {
        const float x = scaled(args_.format, y32[k], scale, tensor_scale);
        if (args_.format == Format::kNvfp4)
          q[k / 2] = k % 2 ? q[k / 2] | to_e2m1(x) << 4 : to_e2m1(x);
        else if (args_.format == Format::kInt8Row)
          q[k] = static_cast<uint8_t>(to_int8(x));
        else
          q[k] = to_e4m3(x);
      }
    }
  }

  void pad(int64_t row, int64_t first, int64_t n) {
    if (args_.glu.zeroes_padding) {
      uint8_t* const values = values_at(row, first);
      std::fill(values, values_at(row, first + n), uint8_t{0});
    }
    const Scales& scales = args_.scales;
    if (!scales.data) return;
    const int64_t group = args_.group();
    for (int64_t i = 0; i < n; i += group)
      write_scale(scales, row / scales.rows, row % scales.rows, (first + i) / group,
                  scales.padding_bits());
  }

  const QuantizedArgs& args_;
  GluArgs unit_;
  Call<T> call_;
  const Segments segments_;
  const int64_t columns_, column_tiles_;
  Widened widened_;
  std::vector<T> scratch_;
};

}  // namespace

int64_t quantized_tiles(const QuantizedArgs& args) {
  const int64_t tiles = args.glu.rows ? tile_segments(args).count() * column_tiles_of(args) : 0;
  return tiles + has_padded_scales(args.scales);
}

void glu_quantized(const QuantizedArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.single ? DType::kFloat32 : args.glu.dtype, [&](auto t) {
    Tiles<decltype(t)> tiles(args);
    for (int64_t i = begin; i < end; ++i) tiles.run(i);
  });
}

void dequantize(const DequantizeArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.cols, groups = (cols + 127) / 128;
  const Loops& loops = loops_for(args.dtype);
  float y[128];
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = row * cols + group * 128,
                    n = std::min<int64_t>(cols - group * 128, 128);
      const float scale = args.scales[row * groups + group];
      for (int64_t i = 0; i < n; ++i) y[i] = from_e4m3(args.values[first + i]) * scale;
      loops.narrow(y, static_cast<char*>(args.out) + first * dtype_size(args.dtype), n);
    }
  }
}

}  // namespace fused_acts::cpu
