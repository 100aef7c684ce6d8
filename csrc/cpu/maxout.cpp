// From a range of maxout's groups to runs of neighbours, and the loops for them.
#include "kernels/maxout.h"

#include "cpu/loops.h"
#include "cpu/runs.h"

namespace fused_acts::cpu {
namespace {

// Calls loop(wide, narrow, winner, n) for the runs of neighbouring elements in [begin, end).
template <class Loop>
void for_each_group_run(const MaxoutArgs& args, int64_t begin, int64_t end, Loop&& loop) {
  const int64_t size = dtype_size(args.dtype);
  const auto at = [size](const Matrix& matrix, int64_t row, int64_t col) {
    return static_cast<char*>(matrix.data) + (row * matrix.row_stride + col) * size;
  };
  for_each_run(args.cols, begin, end, [&](int64_t row, int64_t col, int64_t n) {
    loop(at(args.wide, row, col * args.pieces), at(args.narrow, row, col),
         args.winner + row * args.cols + col, n);
  });
}

}  // namespace

void maxout_forward(const MaxoutArgs& args, int64_t begin, int64_t end) {
  const MaxoutLoop& loops = loops_for(args.dtype).maxout;
  for_each_group_run(args, begin, end, [&](void* x, void* out, uint8_t* winner, int64_t n) {
    loops.forward(x, args.pieces, out, winner, n);
  });
}

void maxout_backward(const MaxoutArgs& args, int64_t begin, int64_t end) {
  const MaxoutLoop& loops = loops_for(args.dtype).maxout;
  for_each_group_run(args, begin, end,
                     [&](void* grad_x, void* grad_out, uint8_t* winner, int64_t n) {
                       loops.backward(grad_out, winner, args.pieces, grad_x, n);
                     });
}

}  // namespace fused_acts::cpu
