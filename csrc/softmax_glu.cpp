// The operators of softmax_glu. Stable ABI only.
#include "softmax_glu.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cuda_call.h"

namespace fused_acts {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kGrain = 8192;  // elements

// gate and up of a call as operands, and the tensors that hold their memory.
struct Inputs {
  SoftmaxGluArgs args;
  Tensor gate, up;
};

Inputs checked_inputs(const Tensor& gate, const Tensor& up) {
  Inputs in{};
  in.args.dtype = checked_dtype(gate, "gate");
  if (gate.dim() == 0) fail<ValueError>("gate: expected at least one dimension, got a 0-d tensor");
  check_device(gate, "gate");
  const int64_t cols = gate.size(gate.dim() - 1);
  check_matches(up, "up", gate, "gate", cols);
  in.args.rows = cols == 0 ? 0 : gate.numel() / cols;
  in.args.cols = cols;
  in.gate = with_row_stride(gate);
  in.up = with_row_stride(up);
  in.args.gate = operand_of(in.gate);
  in.args.up = operand_of(in.up);
  return in;
}

ScalarType real_type(const Tensor& gate) {
  return gate.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// [..., 2]
std::vector<int64_t> stats_sizes(const Tensor& gate) {
  const auto sizes = gate.sizes();
  std::vector<int64_t> result(sizes.begin(), sizes.end());
  result.back() = 2;
  return result;
}

void run(Direction direction, const SoftmaxGluArgs& args, const Tensor& input) {
  if (args.rows == 0 || args.cols == 0) return;
  const bool forward = direction == Direction::kForward;
#ifdef FUSED_ACTS_WITH_CUDA
  if (input.is_cuda()) {
    run_on_cuda(input, [&](void* stream) {
      return forward ? cuda::softmax_glu_forward(args, stream)
                     : cuda::softmax_glu_backward(args, stream);
    });
    return;
  }
#endif
  const auto kernel = forward ? cpu::softmax_glu_forward : cpu::softmax_glu_backward;
  torch::stable::parallel_for(0, args.rows, std::max<int64_t>(kGrain / args.cols, 1),
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

std::tuple<Tensor, Tensor> softmax_glu_forward(Tensor gate, Tensor up) {
  Inputs in = checked_inputs(gate, up);
  Tensor out = empty_like(gate, in.args.cols);
  Tensor stats = torch::stable::new_empty(gate, stats_sizes(gate), real_type(gate));
  in.args.out = operand_of(out);
  in.args.stats = stats.data_ptr();
  run(Direction::kForward, in.args, gate);
  return {out, stats};
}

// A gradient that is not needed comes back as an empty tensor.
std::tuple<Tensor, Tensor> softmax_glu_backward(Tensor grad_out, Tensor gate, Tensor up,
                                                Tensor stats, bool needs_gate, bool needs_up) {
  Inputs in = checked_inputs(gate, up);
  check_matches(grad_out, "grad_out", gate, "gate", in.args.cols);
  const std::vector<int64_t> expected = stats_sizes(gate);
  const auto sizes = stats.sizes();
  if (!std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end()))
    fail<ValueError>("stats: expected two values for each row of gate of shape ", shape_of(gate),
                     ", got shape ", shape_of(stats));
  if (stats.scalar_type() != real_type(gate))
    fail<TypeError>("stats: expected the type that gate is computed in");
  if (stats.is_cuda() != gate.is_cuda() || stats.get_device_index() != gate.get_device_index())
    fail<ValueError>("stats: expected the device of gate");
  const Tensor grad = with_row_stride(grad_out);
  const Tensor dense = torch::stable::contiguous(stats);
  Tensor grad_gate = needs_gate ? empty_like(gate, in.args.cols) : empty(gate);
  Tensor grad_up = needs_up ? empty_like(gate, in.args.cols) : empty(gate);
  in.args.grad_out = operand_of(grad);
  in.args.stats = dense.data_ptr();
  if (needs_gate) in.args.grad_gate = operand_of(grad_gate);
  if (needs_up) in.args.grad_up = operand_of(grad_up);
  if (needs_gate || needs_up) run(Direction::kBackward, in.args, gate);
  return {grad_gate, grad_up};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("softmax_glu_forward", TORCH_BOX(&softmax_glu_forward));
  m.impl("softmax_glu_backward", TORCH_BOX(&softmax_glu_backward));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fused_acts, m) {
  m.def("softmax_glu_forward(Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def(
      "softmax_glu_backward(Tensor grad_out, Tensor gate, Tensor up, Tensor stats, bool "
      "needs_gate, bool needs_up) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_acts, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(fused_acts, CUDA, m) { implement(m); }

}  // namespace fused_acts
