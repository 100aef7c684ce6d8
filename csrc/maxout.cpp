// The operators of maxout. Stable ABI only.
#include "maxout.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda_call.h"

namespace fused_acts {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kGrain = 16384;  // elements of x

void check_pieces(int64_t pieces) {
  if (pieces < 1 || pieces > kMostPieces)
    fail<ValueError>("pieces: expected 1 to ", kMostPieces, ", got ", pieces);
}

void check_winner(const Tensor& winner, const Tensor& grad_out) {
  if (winner.scalar_type() != ScalarType::Byte) fail<TypeError>("winner: expected dtype uint8");
  if (winner.is_cuda() != grad_out.is_cuda() ||
      winner.get_device_index() != grad_out.get_device_index())
    fail<ValueError>("winner: expected the device of grad_out");
  bool same = winner.dim() == grad_out.dim();
  for (int64_t i = 0; same && i < grad_out.dim(); ++i) same = winner.size(i) == grad_out.size(i);
  if (!same)
    fail<ValueError>("winner: expected shape ", shape_of(grad_out), ", got ", shape_of(winner));
}

// `narrow` [..., cols], which has at least one dimension.
MaxoutArgs args_for(const Tensor& narrow, int64_t pieces, DType dtype) {
  const int64_t cols = narrow.size(narrow.dim() - 1);
  return {dtype, cols == 0 ? 0 : narrow.numel() / cols, cols, pieces, {}, {}, nullptr};
}

void run(Direction direction, MaxoutArgs args, const Tensor& input) {
  if (args.rows == 0 || args.cols == 0) return;
  const int64_t wide = args.cols * args.pieces;
  if (args.rows == 1 || (args.wide.row_stride == wide && args.narrow.row_stride == args.cols)) {
    args.cols *= args.rows;
    args.rows = 1;
  }
  const bool forward = direction == Direction::kForward;
#ifdef FUSED_ACTS_WITH_CUDA
  if (input.is_cuda()) {
    run_on_cuda(input, [&](void* stream) {
      return forward ? cuda::maxout_forward(args, stream) : cuda::maxout_backward(args, stream);
    });
    return;
  }
#endif
  const auto kernel = forward ? cpu::maxout_forward : cpu::maxout_backward;
  torch::stable::parallel_for(0, args.rows * args.cols, kGrain / args.pieces + 1,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

std::tuple<Tensor, Tensor> maxout_forward(Tensor x, int64_t pieces) {
  const DType dtype = checked_dtype(x, "x");
  if (x.dim() == 0) fail<ValueError>("x: expected at least one dimension, got a 0-d tensor");
  check_pieces(pieces);
  const int64_t width = x.size(x.dim() - 1);
  if (width % pieces != 0)
    fail<ValueError>("x: expected a last dimension divisible by pieces = ", pieces, ", got shape ",
                     shape_of(x));
  check_device(x, "x");
  const Tensor matrix = with_row_stride(x);
  Tensor out = empty_like(x, width / pieces);
  Tensor winner = torch::stable::new_empty(out, out.sizes(), ScalarType::Byte);
  MaxoutArgs args = args_for(out, pieces, dtype);
  args.wide = operand_of(matrix);
  args.narrow = operand_of(out);
  args.winner = static_cast<uint8_t*>(winner.data_ptr());
  run(Direction::kForward, args, x);
  return {out, winner};
}

Tensor maxout_backward(Tensor grad_out, Tensor winner, int64_t pieces) {
  const DType dtype = checked_dtype(grad_out, "grad_out");
  if (grad_out.dim() == 0)
    fail<ValueError>("grad_out: expected at least one dimension, got a 0-d tensor");
  check_pieces(pieces);
  check_device(grad_out, "grad_out");
  check_winner(winner, grad_out);
  const Tensor grad = with_row_stride(grad_out);
  const Tensor dense = torch::stable::contiguous(winner);
  Tensor grad_x = empty_like(grad_out, grad_out.size(grad_out.dim() - 1) * pieces);
  MaxoutArgs args = args_for(grad_out, pieces, dtype);
  args.wide = operand_of(grad_x);
  args.narrow = operand_of(grad);
  args.winner = static_cast<uint8_t*>(dense.data_ptr());
  run(Direction::kBackward, args, grad_out);
  return grad_x;
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("maxout_forward", TORCH_BOX(&maxout_forward));
  m.impl("maxout_backward", TORCH_BOX(&maxout_backward));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fused_acts, m) {
  m.def("maxout_forward(Tensor x, int pieces) -> (Tensor, Tensor)");
  m.def("maxout_backward(Tensor grad_out, Tensor winner, int pieces) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fused_acts, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(fused_acts, CUDA, m) { implement(m); }

}  // namespace fused_acts
