// The operators of maxout.
#include "kernels/maxout.h"

#include <tuple>

#include "ops/backend.h"
#include "ops/library.h"

namespace fused_acts {
namespace {

constexpr int64_t kGrain = 16384;  // elements of x

void check_pieces(int64_t pieces) {
  if (pieces < 1 || pieces > kMostPieces)
    fail("pieces: expected 1 to ", kMostPieces, ", got ", pieces);
}

void check_has_dimension(const View& t, const char* name) {
  if (t.rank == 0) fail(name, ": expected at least one dimension, got a 0-d tensor");
}

// numel: of out or grad_out, [rows, cols].
MaxoutArgs args_for(DType dtype, int64_t numel, int64_t cols, int64_t pieces) {
  return {dtype, cols == 0 ? 0 : numel / cols, cols, pieces, {}, {}, nullptr};
}

void run(Direction direction, MaxoutArgs args, const View& input) {
  if (args.rows == 0 || args.cols == 0) return;
  const int64_t wide = args.cols * args.pieces;
  if (args.rows == 1 || (args.wide.row_stride == wide && args.narrow.row_stride == args.cols)) {
    args.cols *= args.rows;
    args.rows = 1;
  }
  const bool forward = direction == Direction::kForward;
  run_where_it_is(
      input,
      [&](void* stream) {
        return forward ? cuda::maxout_forward(args, stream) : cuda::maxout_backward(args, stream);
      },
      [&] {
        const auto kernel = forward ? cpu::maxout_forward : cpu::maxout_backward;
        parallel_for(args.rows * args.cols, kGrain / args.pieces + 1,
                     [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
      });
}

std::tuple<Tensor, Tensor> maxout_forward(const Tensor& x_tensor, int64_t pieces) {
  const View x(x_tensor, "x");
  const DType dtype = checked_dtype(x, "x");
  check_has_dimension(x, "x");
  check_pieces(pieces);
  if (x.last_size() % pieces != 0)
    fail("x: expected a last dimension divisible by pieces = ", pieces, ", got shape ",
         shape_of(x));
  check_device(x, "x");
  const ReadMatrix wide(x);
  NewMatrix out(x, x.last_size() / pieces);
  const View narrow(out.tensor, "out");
  Tensor winner = new_tensor(x, uint8_dtype(), narrow.rank, narrow.sizes);
  MaxoutArgs args = args_for(dtype, narrow.numel, narrow.last_size(), pieces);
  args.wide = wide.matrix;
  args.narrow = out.matrix;
  args.winner = static_cast<uint8_t*>(data_of(winner));
  run(Direction::kForward, args, x);
  return {std::move(out.tensor), std::move(winner)};
}

Tensor maxout_backward(const Tensor& grad_tensor, const Tensor& winner_tensor, int64_t pieces) {
  const View grad_out(grad_tensor, "grad_out"), winner(winner_tensor, "winner");
  const DType dtype = checked_dtype(grad_out, "grad_out");
  check_has_dimension(grad_out, "grad_out");
  check_pieces(pieces);
  check_device(grad_out, "grad_out");
  if (winner.dtype != uint8_dtype()) fail("winner: expected dtype uint8");
  if (!same_device(winner, grad_out)) fail("winner: expected the device of grad_out");
  if (!same_sizes(winner, grad_out.rank, grad_out.sizes))
    fail("winner: expected shape ", shape_of(grad_out), ", got ", shape_of(winner));
  const ReadMatrix grad(grad_out);
  const Tensor dense = is_contiguous(winner) ? winner_tensor : copy_of(winner);
  NewMatrix grad_x(grad_out, grad_out.last_size() * pieces);
  MaxoutArgs args = args_for(dtype, grad_out.numel, grad_out.last_size(), pieces);
  args.wide = grad_x.matrix;
  args.narrow = grad.matrix;
  args.winner = static_cast<uint8_t*>(data_of(dense));
  run(Direction::kBackward, args, grad_out);
  return std::move(grad_x.tensor);
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("maxout_forward", TORCH_BOX(&maxout_forward));
  m.impl("maxout", TORCH_BOX(&maxout_forward));
  m.impl("maxout_backward", TORCH_BOX(&maxout_backward));
}

}  // namespace

FUSED_ACTS_DEFINE(m) {
  m.def("maxout_forward(Tensor x, int pieces) -> (Tensor, Tensor)");
  m.def("maxout(Tensor x, int pieces) -> (Tensor, Tensor)");
  m.def("maxout_backward(Tensor grad_out, Tensor winner, int pieces) -> Tensor");
}

FUSED_ACTS_IMPLEMENT(CPU, m) { implement(m); }
FUSED_ACTS_IMPLEMENT(CUDA, m) { implement(m); }

}  // namespace fused_acts
