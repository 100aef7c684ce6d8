// Checks that what is written is read by nobody else, from addresses and strides.
#include "ops/overlap.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace fused_acts {
namespace {

// `count` places, `stride` apart.
struct Axis {
  int64_t stride, count;
  int64_t extent() const { return stride * (count - 1); }
};
using Axes = std::vector<Axis>;

// Whether sums of one place of each axis are `target` at least once; true, too, where to tell would
// take long. From the widest axis inwards, which leaves few places of each where they are nested.
class Sums {
 public:
  explicit Sums(const Axes& axes) {
    for (const Axis& axis : axes)
      if (axis.count > 1 && axis.stride > 0) axes_.push_back(axis);
    std::sort(axes_.begin(), axes_.end(),
              [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
    size_t merged = 0;
    for (size_t i = 1; i < axes_.size(); ++i) {
      if (axes_[i].stride == axes_[merged].stride)
        axes_[merged].count += axes_[i].count - 1;
      else
        axes_[++merged] = axes_[i];
    }
    if (!axes_.empty()) axes_.resize(merged + 1);
    most_.assign(axes_.size() + 1, 0);
    divisor_.assign(axes_.size() + 1, 0);
    for (size_t i = axes_.size(); i-- > 0;) {
      most_[i] = most_[i + 1] + axes_[i].extent();
      divisor_[i] = std::gcd(divisor_[i + 1], axes_[i].stride);
    }
  }

  bool reach(int64_t target) { return reach(0, target); }

 private:
  bool reach(size_t i, int64_t target) {
    if (target < 0 || target > most_[i]) return false;
    if (target == 0) return true;
    if (target % divisor_[i] != 0) return false;
    if (i + 1 == axes_.size()) return true;
    const auto [stride, count] = axes_[i];
    const int64_t rest = target - most_[i + 1];
    const int64_t last = std::min(count - 1, target / stride);
    for (int64_t k = rest > 0 ? (rest + stride - 1) / stride : 0; k <= last; ++k)
      if (--patience_ < 0 || reach(i + 1, target - k * stride)) return true;
    return false;
  }

  Axes axes_;
  std::vector<int64_t> most_, divisor_;  // of the axes from each one on
  int64_t patience_ = int64_t{1} << 20;
};

// The bytes of the elements of a matrix, whose columns may lie in blocks.
struct Bytes {
  const void* data;
  Axis rows, blocks, cols, element;

  int64_t extent() const {
    return rows.extent() + blocks.extent() + cols.extent() + element.extent();
  }
};

Bytes bytes_of(const GluArgs& args, const Matrix& m, int64_t width) {
  const int64_t size = dtype_size(args.dtype);
  return {m.data, {m.row_stride * size, args.rows}, {0, 1}, {size, width}, {1, size}};
}

// The same of gate or up, or what else may be packed.
Bytes bytes_of_input(const GluArgs& args, const Matrix& m) {
  Bytes bytes = bytes_of(args, m, args.cols);
  bytes.cols.stride *= args.step;
  if (args.block) {
    bytes.blocks = {2 * args.block * bytes.cols.stride, args.cols / args.block};
    bytes.cols.count = args.block;
  }
  return bytes;
}

Bytes bytes_of(const GluArgs& args, const RowVector& row) {
  const int64_t size = row.in_real ? real_size(args.dtype) : dtype_size(args.dtype);
  const Axis experts{row.expert_stride * size, std::max<int64_t>(args.experts.count, 1)};
  return {row.data, experts, {0, 1}, {row.col_stride * size, args.cols}, {1, size}};
}

Bytes bytes_of(const GluArgs& args, const ColumnVector& column) {
  const int64_t size = column.in_real ? real_size(args.dtype) : dtype_size(args.dtype);
  return {column.data, {size, args.rows}, {0, 1}, {0, 1}, {1, size}};
}

bool share(const Bytes& a, const Bytes& b) {
  // a's places less b's are to be the distance; those of b are counted from its end.
  const int64_t distance = static_cast<const char*>(b.data) - static_cast<const char*>(a.data);
  const int64_t target = distance + b.extent();
  if (target < 0 || target > a.extent() + b.extent()) return false;
  return Sums({a.rows, a.blocks, a.cols, a.element, b.rows, b.blocks, b.cols, b.element})
      .reach(target);
}

template <class Vector>
void check_no_overlap(const GluArgs& args, const Bytes& out, const Vector& vector,
                      const char* name) {
  if (vector.data && share(bytes_of(args, vector), out))
    fail(name, ": expected none of the memory that is written to");
}

void add_axes(const View& t, Axes* axes) {
  const auto size = static_cast<int64_t>(element_size(t.dtype));
  for (int64_t i = 0; i < t.rank; ++i) axes->push_back({t.strides[i] * size, t.sizes[i]});
  axes->push_back({1, size});
}

int64_t extent_of(const Axes& axes) {
  int64_t extent = 0;
  for (const Axis& axis : axes) extent += axis.extent();
  return extent;
}

// Whether two elements of a tensor are one and the same.
bool overlaps_itself(const View& t) {
  Axes axes;
  for (int64_t i = 0; i < t.rank; ++i)
    if (t.sizes[i] > 1) axes.push_back({t.strides[i], t.sizes[i]});
  std::sort(axes.begin(), axes.end(),
            [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  // Two that are the same differ in some dimensions; the last of them is this one.
  Axes both_ways;
  int64_t extent = 0;
  for (const Axis& axis : axes) {
    if (axis.stride <= extent) {
      Axes differences = both_ways;
      differences.push_back({axis.stride, axis.count - 1});
      if (axis.stride == 0 || Sums(differences).reach(extent - axis.stride)) return true;
    }
    both_ways.push_back({axis.stride, 2 * axis.count - 1});
    extent += axis.extent();
  }
  return false;
}

// Points a matrix in a copy to the same elements of what was copied.
void restore(const OptionalTensor& copy, const View& from, Matrix* matrix) {
  if (!copy) return;
  const auto offset = static_cast<char*>(matrix->data) - static_cast<char*>(data_of(*copy));
  matrix->data = static_cast<char*>(from.data) + offset;
}

}  // namespace

void check_rows_apart(const GluArgs& args, const Matrix& out, int64_t width, const char* name) {
  if (args.rows > 1 && out.row_stride < width)
    fail(name, ": expected rows of ", width,
         " elements apart from each other, got a row stride of ", out.row_stride);
}

void check_elements_apart(const View& t, const char* name) {
  if (is_matrix(t)) {
    const Matrix matrix = matrix_of(t);
    const int64_t width = t.last_size();
    if (t.numel <= width || matrix.row_stride >= width) return;
  } else if (!overlaps_itself(t)) {
    return;
  }
  fail(name, ": expected elements apart from each other, got strides ", strides_of(t), " of shape ",
       shape_of(t), "; clone() it to have them apart");
}

void check_apart(const View& out, const char* name, const View& input, const char* input_name) {
  if (out.numel == 0 || input.numel == 0) return;
  Axes axes, of_input;
  add_axes(out, &axes);
  add_axes(input, &of_input);
  // see share
  const int64_t extent = extent_of(of_input);
  const int64_t target =
      static_cast<const char*>(input.data) - static_cast<const char*>(out.data) + extent;
  if (target < 0 || target > extent + extent_of(axes)) return;
  axes.insert(axes.end(), of_input.begin(), of_input.end());
  if (Sums(axes).reach(target)) fail(name, ": expected none of the memory of ", input_name);
}

void check_no_partial_overlap(const GluArgs& args, const Matrix& out, const Matrix& input,
                              const char* name) {
  const bool same_rows = args.rows == 1 || out.row_stride == input.row_stride;
  if (out.data == input.data && same_rows && args.step == 1 && !args.block) return;
  if (share(bytes_of(args, out, args.cols), bytes_of_input(args, input)))
    fail("out: expected the memory of ", name, " exactly, or none of it, got a partial overlap");
}

void check_vectors_unwritten(const GluArgs& args, const Matrix& out, int64_t width) {
  const Bytes written = bytes_of(args, out, width);
  const char* bias = args.unit->is_unary ? "bias" : "gate_bias";
  check_no_overlap(args, written, args.gate_bias, bias);
  check_no_overlap(args, written, args.up_bias, "up_bias");
  for (const RowVector& parameter : args.parameters)
    check_no_overlap(args, written, parameter, "parameter");
  check_no_overlap(args, written, args.row_weight, "weight");
}

bool is_misaligned(const OptionalTensor& copy, const View& from) {
  return copy && !from.aligned && is_contiguous(from);
}

void check_in_place(const GluCall& call, const ReadMatrix& grad, const View& grad_out,
                    bool product) {
  GluArgs args = call.args;
  restore(call.gate_copy, call.gate, &args.gate);
  if (args.up.data)
    restore(call.up ? call.up_copy : call.gate_copy, call.up ? *call.up : call.gate, &args.up);
  if (product) restore(grad.copy, grad_out, &args.grad_out);
  const auto check_written = [&](const Matrix& matrix, int64_t width, const char* name) {
    check_rows_apart(args, matrix, width, name);
    check_vectors_unwritten(args, matrix, width);
  };
  // A packed x is written as one matrix: the rows of its gate may lie between those of its up.
  const Matrix whole{call.gate.data, args.gate.row_stride};
  check_written(whole, call.gate.last_size(), call.name());
  if (call.up) check_written(args.up, args.cols, "up");
  if (product) check_written(args.grad_out, args.cols, "grad_out");
  const Bytes gate = bytes_of_input(args, args.gate), up = bytes_of_input(args, args.up);
  const Bytes of_grad_out = bytes_of(args, args.grad_out, args.cols);
  if ((call.up && share(gate, up)) || share(gate, of_grad_out) ||
      (args.up.data && share(up, of_grad_out)))
    fail("inplace_backward: expected gate, up and grad_out without common memory");
}

}  // namespace fused_acts
