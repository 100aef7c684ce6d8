// From a range of a quantised call to tiles: a unit into a scratch, and from there eight bits.
#include "kernels/quantized.h"

#include <algorithm>
#include <memory>

#include "cpu/glu_call.h"
#include "cpu/group_scales.h"
#include "cpu/widened_tile.h"

namespace fused_acts::cpu {
namespace {

// Rows of a tile, and bytes of a scratch that holds whole rows: what stays in the nearer caches.
constexpr int64_t kMostRows = 16, kScratchBytes = int64_t{256} << 10;

bool is_scaled_by_row(Format format) {
  return format == Format::kFp8Row || format == Format::kInt8Row;
}

int64_t tile_columns(const QuantizedArgs& args) {
  return is_scaled_by_row(args.format) ? std::max<int64_t>(args.glu.cols, 1) : kTile;
}

int64_t tile_rows(const QuantizedArgs& args) {
  const int64_t row = tile_columns(args) * (args.single ? 4 : dtype_size(args.glu.dtype));
  return std::clamp<int64_t>(kScratchBytes / row, 1, kMostRows);
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
        loops_(loops_for(unit_.dtype)),
        widened_(args.glu, unit_.dtype == args.glu.dtype ? 0 : tile_rows(args)),
        groups_(args),
        scratch_(args.identity ? nullptr : new T[columns_ * tile_rows(args)]) {
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
    unit_.out = {scratch_.get() - (segment.begin * columns_ + first), columns_};
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
    return scratch_.get() + (row - segment.begin) * columns_;
  }

  uint8_t* values_at(int64_t row, int64_t col) const {
    const int64_t offset = args_.format == Format::kNvfp4 ? col / 2 : col;
    return static_cast<uint8_t*>(args_.values.data) + row * args_.values.row_stride + offset;
  }

  void quantize(int64_t row, const T* y, int64_t first, int64_t n) {
    if (is_scaled_by_row(args_.format)) {
      float largest = 0;
      for (int64_t i = 0; i < n; i += kTile) {
        const int64_t count = std::min(kTile, n - i);
        largest = largest_of(widened(y + i, count), count, largest);
      }
      uint32_t bits;
      groups_.set(&largest, 1, &bits);
      write_scales(row, 0, &bits, 1);
    }
    for (int64_t i = 0; i < n; i += kTile) {
      const int64_t count = std::min(kTile, n - i);
      const float* const y32 = widened(y + i, count);
      int64_t group = group_columns(args_.format);
      if (group) {
        scale_groups(row, y32, first + i, count);
      } else {
        group = count;
        if (args_.format == Format::kFp8Tensor) groups_.set_given(largest_of(y32, count, 0));
      }
      groups_.quantize(y32, count, group, values_at(row, first + i));
    }
  }

  // As floats.
  const float* widened(const T* y, int64_t n) {
    if constexpr (std::is_same_v<T, float>) return y;
    loops_.widen(y, wide_, n);
    return wide_;
  }

  float largest_of(const float* y, int64_t n, float before) const {
    float largest;
    loops_.quantize.largest(y, n, n, &largest);
    return float_of(std::max(bits_of(largest), bits_of(before)));
  }

  void scale_groups(int64_t row, const float* y, int64_t first, int64_t n) {
    const int64_t group = group_columns(args_.format);
    const int64_t count = (n + group - 1) / group;
    float largest[kMostGroups];
    uint32_t bits[kMostGroups];
    loops_.quantize.largest(y, n, group, largest);
    groups_.set(largest, count, bits);
    write_scales(row, first / group, bits, count);
  }

  // Of neighbouring groups.
  void write_scales(int64_t row, int64_t group, const uint32_t* bits, int64_t count) const {
    const Scales& scales = args_.scales;
    const int64_t matrix = row / scales.rows, row_of_matrix = row % scales.rows;
    for (int64_t i = 0; i < count; ++i)
      write_scale(scales, matrix, row_of_matrix, group + i, bits[i]);
  }

  void pad(int64_t row, int64_t first, int64_t n) {
    if (args_.glu.zeroes_padding) {
      uint8_t* const values = values_at(row, first);
      std::fill(values, values_at(row, first + n), uint8_t{0});
    }
    const Scales& scales = args_.scales;
    if (!scales.data) return;
    const int64_t group = args_.group();
    const uint32_t bits = scales.padding_bits();
    for (int64_t i = 0; i < n; i += group) write_scales(row, (first + i) / group, &bits, 1);
  }

  const QuantizedArgs& args_;
  GluArgs unit_;
  Call<T> call_;
  const Segments segments_;
  const int64_t columns_, column_tiles_;
  const Loops& loops_;
  WidenedTile widened_;
  GroupScales groups_;
  const std::unique_ptr<T[]> scratch_;
  alignas(64) float wide_[kTile];
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
  constexpr int64_t kGroup = group_columns(Format::kFp8Block128);
  const int64_t cols = args.cols, groups = (cols + kGroup - 1) / kGroup;
  const Loops& loops = loops_for(args.dtype);
  float y[kGroup];
  for (int64_t i = begin * groups; i < end * groups; ++i) {
    const int64_t col = i % groups * kGroup, first = i / groups * cols + col;
    const int64_t n = std::min(cols - col, kGroup);
    loops.quantize.from_e4m3(args.values + first, n, args.scales[i], y);
    loops.narrow(y, static_cast<char*>(args.out) + first * dtype_size(args.dtype), n);
  }
}

}  // namespace fused_acts::cpu
