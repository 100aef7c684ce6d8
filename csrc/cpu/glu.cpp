// From a range of elements to dense runs: rows, interleaved operands, gradients nobody needs.
#include <algorithm>

#include "dense.h"
#include "runs.h"

namespace fused_acts::cpu {
namespace {

bool uses_avx512(const GluArgs& args) {
  return processor_capability() >= Capability::kAvx512 && args.dtype != DType::kFloat64;
}

DenseLoops loops_for(const GluArgs& args) {
  return uses_avx512(args) ? avx512_loops(args.variant, args.dtype)
                           : portable_loops(args.variant, args.dtype);
}

// Whether a call that touches so many bytes should write past the caches. From about the size of a
// last-level cache, or of a few cores' share in that of a server, its outputs would push each other
// out.
bool should_stream(const GluArgs& args, int64_t operands) {
  return operands * args.rows * args.cols * dtype_size(args.dtype) > int64_t{32} << 20;
}

// Calls visitor(row, col, n) for the runs, of one row and one tile if so wanted, that make up
// elements [begin, end).
template <class Visitor>
void for_each_run(int64_t cols, bool tiles, int64_t begin, int64_t end, Visitor&& visitor) {
  int64_t row = begin / cols, col = begin % cols;
  while (begin < end) {
    int64_t n = std::min(cols - col, end - begin);
    if (tiles) n = std::min(n, kTile);
    visitor(row, col, n);
    begin += n;
    col += n;
    if (col == cols) {
      col = 0;
      ++row;
    }
  }
}

}  // namespace

bool has_dense_loops(const GluArgs& args) {
  return !args.has_options() && is_common(args.variant) &&
         (!is_alone(args.variant) || uses_avx512(args));
}

void glu_forward(const GluArgs& args, int64_t begin, int64_t end) {
  const DenseLoops loops = loops_for(args);
  const bool streams = args.step == 1 && should_stream(args, is_alone(args.variant) ? 2 : 3);
  visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    Reader<T> gate(args.gate, args.step), up(args.up, args.step);
    for_each_run(args.cols, args.step != 1, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* out = static_cast<T*>(args.out.data) + row * args.out.row_stride + col;
      loops.forward(gate(row, col, n), up(row, col, n), out, n, streams);
    });
  });
}

void glu_backward(const GluArgs& args, int64_t begin, int64_t end) {
  const DenseLoops loops = loops_for(args);
  visit_dtype(args.dtype, [&](auto t) {
    using T = decltype(t);
    Reader<T> grad_out(args.grad_out, 1), gate(args.gate, args.step), up(args.up, args.step);
    Writer<T> grad_gate(args.grad_gate, args.step), grad_up(args.grad_up, args.step);
    const bool alone = is_alone(args.variant);
    const bool tiles = grad_gate.needs_tile() || (!alone && grad_up.needs_tile());
    const bool streams = !tiles && should_stream(args, alone ? 3 : args.product ? 6 : 5);
    for_each_run(args.cols, tiles, begin, end, [&](int64_t row, int64_t col, int64_t n) {
      T* product = static_cast<T*>(args.grad_out.data) + row * args.grad_out.row_stride + col;
      loops.backward(grad_out(row, col, n), gate(row, col, n), up(row, col, n),
                     grad_gate.begin(row, col), grad_up.begin(row, col),
                     args.product ? product : nullptr, n, streams);
      grad_gate.end(n);
      grad_up.end(n);
    });
  });
}

}  // namespace fused_acts::cpu
