// Rows that belong to experts: which of them share an expert's values, and which are padding.
#pragma once

#include <cstdint>

#include "math/primitives.h"

namespace fused_acts {

// Of matrices whose rows each belong to an expert or, as padding, to none. At most one of the three
// arrays is there. They lie where the matrices do and nobody has looked at what they hold: whatever
// it is, no row that there is not is reached.
struct Experts {
  const int32_t* ends = nullptr;  // [ends_count]: the rows before belong to this expert or earlier
  const int32_t* counts = nullptr;  // [rows / rows_each]: the first rows of each rows_each
  const int32_t* of_row = nullptr;  // [rows]: negative for padding
  int64_t ends_count = 0, rows_each = 0;
  int64_t count = 0;  // of experts, if operands have values for each, or 0

  bool any() const { return ends || counts || of_row; }
};

// Neighbouring rows, those of one expert if operands have values for each. The rows before live_end
// are computed and the others are padding; with Experts::of_row each row says for itself.
template <class Int>
struct SegmentOf {
  Int begin, live_end, end;
  Int expert;  // Experts::count: padding alone
};

// The partial sums of an expert: those of segments [begin, end), and of one more unless negative.
struct Parts {
  int64_t begin, end, more;
};

// The rows of a call as segments, of at most `length` rows. They begin at multiples of it, and also
// where an expert does if operands have values for each, so that each row is in one segment; or
// with Experts::of_row, where its rows may be anywhere, each expert has segments of all rows. What
// rows are counted in, and divided by, is a kernel's choice.
template <class Int, class Length>
struct SegmentsOf {
  Experts experts;
  Int rows;
  Length length;

  FUSED_ACTS_INLINE Int count() const {
    if (experts.counts) return rows / experts.rows_each * parts(experts.rows_each);
    if (!experts.count) return parts(rows);
    return experts.ends ? parts(rows) + experts.count + 1 : parts(rows) * (experts.count + 1);
  }

  FUSED_ACTS_INLINE SegmentOf<Int> at(Int i) const {
    const Int n = parts(rows), experts_count = static_cast<Int>(experts.count);
    if (experts.counts) {
      const Int rows_each = static_cast<Int>(experts.rows_each), each = parts(rows_each);
      const Int expert = i / each, first = expert * rows_each;
      const Int begin = i % each * length, end = lesser(begin + length, rows_each);
      return {first + begin, first + within(experts.counts[expert], begin, end), first + end,
              expert};
    }
    if (experts.of_row && experts_count) {
      const Int begin = i % n * length, end = lesser(begin + length, rows);
      return {begin, end, end, i / n};
    }
    if (!experts.ends || !experts_count) {
      const Int begin = i * length, end = lesser(begin + length, rows);
      const Int live = experts.ends ? experts.ends[experts.ends_count - 1] : end;
      return {begin, within(live, begin, end), end, 0};
    }
    // From a multiple of length, or from the row that an expert begins at to the next multiple.
    const Int expert = i < n ? owner(i * length) : i - n;
    const Int begin = i < n ? i * length : begin_of(expert);
    const Int next = i < n ? begin + length : parts(begin) * length;
    const Int end = larger(begin, lesser(next, end_of(expert)));
    return {begin, expert < experts_count ? end : begin, end, expert};
  }

  // Of the sums of an expert. All segments have sums, of 0 rows too.
  FUSED_ACTS_INLINE Parts parts_of(Int expert) const {
    const Int n = parts(rows);
    if (experts.counts) {
      const Int each = parts(static_cast<Int>(experts.rows_each));
      return {expert * each, (expert + 1) * each, -1};
    }
    if (experts.of_row) return {expert * n, (expert + 1) * n, -1};
    const Int begin = begin_of(expert), end = end_of(expert);
    return {parts(begin), parts(end), begin % length && begin < end ? n + expert : -1};
  }

 private:
  static FUSED_ACTS_INLINE Int lesser(Int a, Int b) { return a < b ? a : b; }
  static FUSED_ACTS_INLINE Int larger(Int a, Int b) { return a > b ? a : b; }
  static FUSED_ACTS_INLINE Int within(Int x, Int low, Int high) {
    return lesser(larger(x, low), high);
  }
  FUSED_ACTS_INLINE Int parts(Int n) const { return (n + length - 1) / length; }

  // Of an expert by its ends, and of the padding behind the last.
  FUSED_ACTS_INLINE Int begin_of(Int expert) const {
    return expert ? within(experts.ends[expert - 1], 0, rows) : 0;
  }
  FUSED_ACTS_INLINE Int end_of(Int expert) const {
    return expert < static_cast<Int>(experts.count) ? within(experts.ends[expert], 0, rows) : rows;
  }
  // The number of experts that end before a row.
  FUSED_ACTS_INLINE Int owner(Int row) const {
    Int low = 0, high = static_cast<Int>(experts.count);
    while (low < high) {
      const Int middle = (low + high) / 2;
      if (experts.ends[middle] <= row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

using Segment = SegmentOf<int64_t>;
using Segments = SegmentsOf<int64_t, int64_t>;

}  // namespace fused_acts
