// The operators torch.ops.fused_acts.* without options: the shortest way to a kernel. Stable ABI
// only.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "calls.h"

namespace fused_acts {
namespace {

Tensor glu_forward(Tensor gate, std::optional<Tensor> up, int64_t variant, int64_t layout) {
  Inputs in = checked_inputs(gate, up, variant, layout);
  Tensor out = empty_like(gate, in.args.cols);
  in.args.out = operand_of(out);
  run(Direction::kForward, in.args, gate);
  return out;
}

void glu_forward_out(Tensor gate, std::optional<Tensor> up, int64_t variant, int64_t layout,
                     Tensor out) {
  Inputs in = checked_inputs(gate, up, variant, layout);
  forward_into(in, gate, up ? "gate" : "x", out);
}

// A gradient that is not needed comes back as an empty tensor.
std::tuple<Tensor, Tensor> glu_backward(Tensor grad_out, Tensor gate, Tensor up, int64_t variant,
                                        bool needs_gate, bool needs_up) {
  Inputs in = checked_inputs(gate, up, variant, 0);
  check_matches(grad_out, "grad_out", gate, "gate", in.args.cols);
  const Tensor grad = with_row_stride(grad_out);
  Tensor grad_gate = needs_gate ? empty_like(gate, in.args.cols) : empty(gate);
  Tensor grad_up = needs_up ? empty_like(gate, in.args.cols) : empty(gate);
  in.args.grad_out = operand_of(grad);
  if (needs_gate) in.args.grad_gate = operand_of(grad_gate);
  if (needs_up) in.args.grad_up = operand_of(grad_up);
  if (needs_gate || needs_up) run(Direction::kBackward, in.args, gate);
  return {grad_gate, grad_up};
}

Tensor glu_backward_packed(Tensor grad_out, Tensor x, int64_t variant, int64_t layout) {
  Inputs in = checked_inputs(x, std::nullopt, variant, layout);
  GluArgs& args = in.args;
  check_matches(grad_out, "grad_out", x, "x", args.cols);
  const Tensor grad = with_row_stride(grad_out);
  Tensor grad_x = empty_like(x, x.size(x.dim() - 1));
  args.grad_out = operand_of(grad);
  split(operand_of(grad_x), static_cast<Layout>(layout), args, &args.grad_gate, &args.grad_up);
  run(Direction::kBackward, args, x);
  return grad_x;
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("glu_forward", TORCH_BOX(&glu_forward));
  m.impl("glu_forward_out", TORCH_BOX(&glu_forward_out));
  m.impl("glu_backward", TORCH_BOX(&glu_backward));
  m.impl("glu_backward_packed", TORCH_BOX(&glu_backward_packed));
}

}  // namespace

STABLE_TORCH_LIBRARY(fused_acts, m) {
  m.def("glu_forward(Tensor gate, Tensor? up, int variant, int layout) -> Tensor");
  m.def("glu_forward_out(Tensor gate, Tensor? up, int variant, int layout, Tensor(a!) out) -> ()");
  m.def(
      "glu_backward(Tensor grad_out, Tensor gate, Tensor up, int variant, bool needs_gate, bool "
      "needs_up)"
      " -> (Tensor, Tensor)");
  m.def("glu_backward_packed(Tensor grad_out, Tensor x, int variant, int layout) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fused_acts, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(fused_acts, CUDA, m) {
  implement(m);
}  // in CPU builds too: it says how to rebuild

}  // namespace fused_acts
