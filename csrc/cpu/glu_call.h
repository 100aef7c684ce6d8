// A call to a gated unit in blocks of rows and columns, and the loops for them.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/column_values.h"
#include "cpu/loops.h"

namespace fused_acts::cpu {

constexpr int64_t kTileRows = 32;  // of a tile, where no sums ask for more
// Rows added up in the type of the arithmetic before they go on to a tile's sum, in double: each
// addition rounds to the size of what it adds to.
constexpr int64_t kAddedRows = 16;

inline Segments segments_of(const GluArgs& args) {
  return args.segments(args.segment_rows ? args.segment_rows : kTileRows);
}

// Whether a call should write past the caches. From about the size of a last-level cache, or of a
// few cores' share in that of a server, its outputs would push each other out; but a run has to be
// worth the way to its first boundary.
inline bool exceeds_caches(Direction direction, const GluArgs& args) {
  const int matrices = direction == Direction::kForward ? (args.unit->is_unary ? 2 : 3)
                       : args.unit->is_unary            ? 3
                       : args.product                   ? 6
                                                        : 5;
  const int64_t row = args.cols * dtype_size(args.dtype);
  return direction != Direction::kDoubleBackward && row >= 4096 &&
         matrices * args.rows * row > int64_t{32} << 20;
}

inline Options options_of(Direction direction, const GluArgs& args) {
  if (direction == Direction::kDoubleBackward || args.has_row_operands() || args.weight != 1.0)
    return Options::kRows;
  const UnitCode& unit = *args.unit;
  if (!unit.takes_numbers) return args.has_options() ? Options::kRows : Options::kNone;
  if (args.parameters[0].data || args.parameters[1].data || args.scalars[0] != unit.usual_parameter)
    return Options::kNumbers;
  // interleaved operands are read by the loops that have a limit
  return args.limit != std::numeric_limits<double>::infinity() || args.step != 1 ||
                 !unit.has_plain_kernels
             ? Options::kLimit
             : Options::kNone;
}

enum class RowKind { kLive, kPadding, kOther };

// A call in blocks. T is the storage type. Where results go may change from one tile to the next.
template <class T>
class Call {
 public:
  Call(Direction direction, const GluArgs& args)
      : args_(args),
        loops_(loops_for(args.dtype)),
        options_(options_of(direction, args)),
        segments_(segments_of(args)),
        direction_(direction),
        loop_(args.unit->loops_for(args.dtype).glu(direction, options_, args.unit->variant)),
        values_(args, loops_) {
    const bool backward = direction != Direction::kForward;
    const bool reads_zeros =
        backward && (!args.grad_out.data || (direction == Direction::kDoubleBackward &&
                                             (!args.gate_tangent.data || !args.up_tangent.data)));
    const bool scratches =
        backward && (!args.grad_gate.data || !(args.grad_up.data || args.unit->is_unary));
    if (reads_zeros) std::memset(zeros_, 0, sizeof zeros_);
    longest_ = reads_zeros || scratches || options_ == Options::kRows ? kTile : args.cols;
    if (args.block) longest_ = std::min(longest_, args.block);

    block_.pairs = args.step == 2;
    block_.past_caches = !scratches && exceeds_caches(direction, args);
    block_.limit = args.limit;
    block_.weight = args.weight;
    for (int i = 0; i < 2; ++i) block_.scalars[i] = values_.scalar(i);
    if (options_ == Options::kRows && !values_.differ()) values_.read(0, kTile, 0);
  }

  // Elements [begin, end) of a call without row operands.
  void run_elements(int64_t begin, int64_t end) {
    const int64_t cols = args_.cols, row = begin / cols, col = begin % cols;
    if (col > 0 || end < begin + cols) {
      const int64_t n = std::min(cols - col, end - begin);
      run_rows(row, 1, col, n);
      if (begin + n < end) run_elements(begin + n, end);
      return;
    }
    run_rows(row, (end - begin) / cols, 0, cols);
    if (const int64_t rest = (end - begin) % cols) run_rows(row + (end - begin) / cols, 1, 0, rest);
  }

  // One tile of a call with row operands.
  void run_tile(int64_t tile) {
    const int64_t first = tile % column_tiles(args_) * kTile, part = tile / column_tiles(args_);
    const int64_t n = std::min(kTile, args_.cols - first);
    const Segment segment = segments_.at(part);
    begin_tile(segment, first, n);

    const auto& sums = args_.sums;
    for (int i = 0; i < kSums; ++i)
      if (sums[i]) std::fill_n(group_[i], n, Real(0)), std::fill_n(total_[i], n, 0.0);
    for (int64_t row = segment.begin; row < segment.live_end; row += kAddedRows) {
      run_live_rows(row, std::min(kAddedRows, segment.live_end - row), segment.expert, first, n);
      for (int i = 0; i < kSums; ++i)
        if (sums[i]) add_group(total_[i], group_[i], n);
    }
    for (int64_t row = segment.live_end; row < segment.end; ++row) pad(row, first, n);
    for (int i = 0; i < kSums; ++i)
      if (sums[i])
        std::copy_n(total_[i], n, static_cast<Real*>(sums[i]) + part * args_.cols + first);
  }

  // What the tiles of segments have for their columns; at most kTile of them.
  void begin_tile(const Segment& segment, int64_t first, int64_t n) {
    if (values_.differ() && has_live_rows(segment)) values_.read(first, n, segment.expert);
  }

  // Rows of a tile with what each has for itself: a weight, or an expert.
  void run_live_rows(int64_t begin, int64_t count, int64_t expert, int64_t first, int64_t n) {
    const int32_t* const of_row = args_.experts.of_row;
    const auto& [weights, in_real] = args_.row_weight;
    if (!of_row && !weights) return run_rows(begin, count, first, n);
    for (int64_t row = begin; row < begin + count; ++row) {
      const RowKind kind = kind_of(row, expert);
      if (kind == RowKind::kPadding) pad(row, first, n);
      if (kind != RowKind::kLive) continue;
      if (weights) block_.weight = values_.number_at(weights, in_real, row);
      if (args_.weight_sums) std::fill_n(weight_sums_, kMostInStep, Real(0));
      run_rows(row, 1, first, n);
      if (args_.weight_sums) weight_sum(row, first) = add_up(weight_sums_);
    }
  }

  // Of the rows before live_end of an expert's segment, which is of all experts where operands have
  // no values for each.
  RowKind kind_of(int64_t row, int64_t expert) const {
    const Experts& experts = args_.experts;
    if (!experts.of_row) return RowKind::kLive;
    const int32_t owner = experts.of_row[row];
    if (is_padding(owner))
      return !experts.count || expert == experts.count ? RowKind::kPadding : RowKind::kOther;
    return !experts.count || owner == expert ? RowKind::kLive : RowKind::kOther;
  }

  // For results that are read again.
  void stay_in_caches() { block_.past_caches = false; }

 private:
  using Real = typename MathFor<T>::type::Real;

  static constexpr int kSums = std::extent_v<decltype(GluArgs::sums)>;

  bool has_live_rows(const Segment& segment) const {
    const Experts& experts = args_.experts;
    if (!experts.of_row || !experts.count) return segment.begin < segment.live_end;
    const int32_t *begin = experts.of_row + segment.begin, *end = experts.of_row + segment.live_end;
    return segment.expert < experts.count && std::find(begin, end, segment.expert) != end;
  }

  bool is_padding(int32_t owner) const {
    return owner < 0 || (args_.experts.count && owner >= args_.experts.count);
  }

  // The results of a row that is padding.
  void pad(int64_t row, int64_t first, int64_t n) {
    const auto zero = [&](const Matrix& matrix, bool packed) {
      if (!matrix.data) return;
      T* const columns = static_cast<T*>(matrix.data) + row * matrix.row_stride;
      if (!packed || (args_.step == 1 && !args_.block))
        std::fill_n(columns + first, n, T{});
      else
        for (int64_t i = first; i < first + n; ++i) columns[packed_column(i)] = T{};
    };
    if (direction_ == Direction::kForward) {
      if (args_.zeroes_padding) zero(args_.out, false);
      return;
    }
    zero(args_.grad_gate, true);
    zero(args_.grad_up, true);
    if (args_.product) zero(args_.grad_out, false);
    if (args_.weight_sums) weight_sum(row, first) = Real(0);
  }

  Real& weight_sum(int64_t row, int64_t first) {
    return static_cast<Real*>(args_.weight_sums)[first / kTile * args_.rows + row];
  }

  // In halves, which is as exact as it is quick.
  static Real add_up(Real* values) {
    double sums[kMostInStep];
    std::copy_n(values, kMostInStep, sums);
    for (int64_t half = kMostInStep / 2; half; half /= 2)
      for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    return static_cast<Real>(sums[0]);
  }

  int64_t packed_column(int64_t col) const {
    return args_.block ? col + col / args_.block * args_.block : col * args_.step;
  }

  // Neighbouring columns of some rows: of a tile, if there are row operands.
  void run_rows(int64_t row, int64_t rows, int64_t col, int64_t cols) {
    if (cols <= longest_ && !args_.block) return loop_(block_at(row, rows, col, cols, col));
    const int64_t last = row + rows, end = col + cols;
    // rows of short blocks go together, long rows one by one as they lie in memory
    const int64_t together = args_.block ? rows : 1;
    for (; row < last; row += together) {
      for (int64_t i = col, n; i < end; i += n) {
        n = std::min(longest_, end - i);
        if (args_.block) n = std::min(n, args_.block - i % args_.block);
        loop_(block_at(row, together, i, n, col));
      }
    }
  }

  // first: the column that row vectors and their sums begin at.
  Block block_at(int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t first) {
    const auto at = [=](const Matrix& matrix, int64_t offset, T* otherwise) -> Matrix {
      if (!matrix.data) return {otherwise, 0};
      return {static_cast<T*>(matrix.data) + row * matrix.row_stride + offset, matrix.row_stride};
    };
    const int64_t packed = packed_column(col);
    Block block = block_;
    block.rows = rows;
    block.cols = cols;
    block.gate = at(args_.gate, packed, nullptr);
    block.up = at(args_.up, packed, nullptr);
    block.grad_out = at(args_.grad_out, col, zeros_);
    block.gate_tangent = at(args_.gate_tangent, packed, zeros_);
    block.up_tangent = at(args_.up_tangent, packed, zeros_);
    block.out = at(args_.product ? args_.grad_out : args_.out, col, nullptr);
    block.grad_gate = at(args_.grad_gate, packed, scratch_);
    block.grad_up = at(args_.grad_up, packed, scratch_);
    if (options_ == Options::kRows) {
      const int64_t offset = values_.differ() ? col - first : 0;
      block.gate_bias = values_.gate_bias + offset;
      block.up_bias = values_.up_bias + offset;
      for (int i = 0; i < 2; ++i) block.parameters[i] = values_.parameters[i] + offset;
      for (int i = 0; i < kSums; ++i)
        block.sums[i] = args_.sums[i] ? group_[i] + (col - first) : nullptr;
      block.weight_sums = args_.weight_sums ? weight_sums_ : nullptr;
    }
    return block;
  }

  static void add_group(double* total, Real* group, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      total[i] += group[i];
      group[i] = Real(0);
    }
  }

  const GluArgs& args_;
  const Loops& loops_;
  const Options options_;
  const Segments segments_;
  const Direction direction_;
  const Loop loop_;
  int64_t longest_;  // columns of a block
  Block block_{};    // what all blocks have in common
  ColumnValues<T> values_;
  // in the place of operands that are not there or not wanted, also as pairs
  alignas(64) T zeros_[2 * kTile], scratch_[2 * kTile];
  // sums by gate, up and the parameters
  alignas(64) Real group_[kSums][kTile];
  alignas(64) double total_[kSums][kTile];
  alignas(64) Real weight_sums_[kMostInStep];
};

}  // namespace fused_acts::cpu
