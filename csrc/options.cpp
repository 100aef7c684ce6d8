// The operators torch.ops.fused_acts.* with options: biases, the parameter of f and a limit, in
// every direction. Stable ABI only.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "calls.h"

namespace fused_acts {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Which gradients a backward call is asked for.
enum Needs : int64_t { kGate = 1, kUp = 2, kGateBias = 4, kUpBias = 8, kParameter = 16 };

Inputs checked_call(const Tensor& gate, const OptionalTensor& up, const OptionalTensor& gate_bias,
                    const OptionalTensor& up_bias, const OptionalTensor& parameter, double scalar,
                    double limit, int64_t variant, int64_t layout) {
  Inputs in = checked_inputs(gate, up, variant, layout);
  const auto row = [&](const OptionalTensor& t, const char* name, bool may_be_one) {
    return t ? row_of(*t, name, gate, in.args.cols, may_be_one) : Row{};
  };
  in.args.gate_bias = row(gate_bias, "gate_bias", false);
  in.args.up_bias = row(up_bias, "up_bias", false);
  in.args.parameter = row(parameter, "parameter", true);
  in.args.scalar = scalar;
  in.args.limit = limit;
  if (!(limit >= 0)) fail<ValueError>("limit: expected a number that is not negative, got ", limit);
  return in;
}

// Points two operands at a tensor each, or at the packed one that stands for both. What is not
// there stays null.
void place(const OptionalTensor& first, const OptionalTensor& second, bool packed, int64_t layout,
           const GluArgs& args, Operand* gate, Operand* up) {
  if (packed) {
    if (first) split(operand_of(*first), static_cast<Layout>(layout), args, gate, up);
    return;
  }
  if (first) *gate = operand_of(*first);
  if (second) *up = operand_of(*second);
}

// As many chunks of rows as keep a GPU busy, in at most 1% of the memory that large gradients take.
int64_t chunk_count(const GluArgs& args) {
  constexpr int64_t kShortest = 32, kUsual = 12, kMost = 1024, kBytesOfRows = 640;
  const int64_t by_rows = std::min(kUsual, (args.rows + kShortest - 1) / kShortest);
  const int64_t by_memory = args.rows * dtype_size(args.dtype) / kBytesOfRows;
  const int64_t chunks = std::min(std::max(by_rows, by_memory), kMost);
  if (chunks == 0) return 0;
  const int64_t rows = (args.rows + chunks - 1) / chunks;
  return (args.rows + rows - 1) / rows;  // none is empty
}

// Runs a backward call whose gradients are in place and returns the sums [kinds, cols] over rows of
// those that `needs` names, in the order of its bits.
Tensor backward_with_sums(GluArgs& args, const Tensor& gate, const OptionalTensor& parameter,
                          int64_t needs) {
  const int64_t kinds = !!(needs & kGateBias) + !!(needs & kUpBias) + !!(needs & kParameter);
  if (kinds == 0) {
    run(Direction::kBackward, args, gate);
    return empty_real(gate, 1, 0, args.cols);
  }
  args.chunks = chunk_count(args);
  Tensor partial = empty_real(gate, kinds, args.chunks, args.cols);
  Tensor sums = empty_real(gate, 1, kinds, args.cols);
  char* next = static_cast<char*>(partial.data_ptr());
  const auto take = [&](bool needed) -> void* {
    char* sum = next;
    if (needed) next += args.chunks * args.cols * partial.element_size();
    return needed ? sum : nullptr;
  };
  args.sums.gate = take(needs & kGateBias);
  args.sums.up = take(needs & kUpBias);
  args.sums.parameter = take(needs & kParameter);
  run(Direction::kBackward, args, gate);
  // Not by its step: one value for each column may lie at a single address, expanded.
  const bool total = (needs & kParameter) && parameter && parameter->numel() == 1;
  add_chunks({partial.data_ptr(), sums.data_ptr(), kinds, args.chunks, args.cols,
              args.dtype == DType::kFloat64, total},
             gate);
  return sums;
}

Tensor glu_forward_options(Tensor gate, OptionalTensor up, OptionalTensor gate_bias,
                           OptionalTensor up_bias, OptionalTensor parameter, double scalar,
                           double limit, int64_t variant, int64_t layout) {
  Inputs in = checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout);
  Tensor out = empty_like(gate, in.args.cols);
  in.args.out = operand_of(out);
  run(Direction::kForward, in.args, gate);
  return out;
}

void glu_forward_options_out(Tensor gate, OptionalTensor up, OptionalTensor gate_bias,
                             OptionalTensor up_bias, OptionalTensor parameter, double scalar,
                             double limit, int64_t variant, int64_t layout, Tensor out) {
  Inputs in = checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout);
  forward_into(in, gate, up ? "gate" : "x", out);
}

std::tuple<Tensor, Tensor, Tensor> glu_backward_options(Tensor grad_out, Tensor gate,
                                                        OptionalTensor up, OptionalTensor gate_bias,
                                                        OptionalTensor up_bias,
                                                        OptionalTensor parameter, double scalar,
                                                        double limit, int64_t variant,
                                                        int64_t layout, int64_t needs) {
  Inputs in = checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout);
  GluArgs& args = in.args;
  check_matches(grad_out, "grad_out", gate, up ? "gate" : "x", args.cols);
  const Tensor grad = with_row_stride(grad_out);
  args.grad_out = operand_of(grad);
  const int64_t width = gate.size(gate.dim() - 1);
  Tensor grad_gate = needs & kGate ? empty_like(gate, width) : empty(gate);
  Tensor grad_up = up && needs & kUp ? empty_like(gate, width) : empty(gate);
  const auto wanted = [](bool needed, const Tensor& t) {
    return needed ? OptionalTensor(t) : std::nullopt;
  };
  place(wanted(needs & kGate, grad_gate), wanted(needs & kUp, grad_up), !up, layout, args,
        &args.grad_gate, &args.grad_up);
  Tensor sums = backward_with_sums(args, gate, parameter, needs);
  return {grad_gate, grad_up, sums};
}

// Writes the gradients over gate and up, and the product over grad_out if that is wanted. What is
// written is dense or evenly spaced and shares no memory.
Tensor backward_inplace(const Tensor& grad_out, const Tensor& gate, const OptionalTensor& up,
                        Inputs in, const OptionalTensor& parameter, int64_t needs, bool product) {
  GluArgs& args = in.args;
  check_matches(grad_out, "grad_out", gate, up ? "gate" : "x", args.cols);
  if (gate.numel() > 0 && (!is_matrix(gate) || (up && !is_matrix(*up))))
    fail<ValueError>("inplace_backward: expected gate and up with dense, evenly spaced rows");
  if (product && gate.numel() > 0 && !is_matrix(grad_out))
    fail<ValueError>("grad_out: expected dense, evenly spaced rows, for the product to go there");
  check_rows_apart(args, args.gate, "gate");
  check_rows_unwritten(args, args.gate);
  if (args.up.data) {
    check_rows_apart(args, args.up, "up");
    check_rows_unwritten(args, args.up);
  }
  const Tensor grad = with_row_stride(grad_out);
  args.grad_out = operand_of(grad);
  args.product = product;
  if (product) {
    check_rows_apart(args, args.grad_out, "grad_out");
    check_rows_unwritten(args, args.grad_out);
  }
  if (gate.numel() > 0 && ((up && overlap(args, args.gate, 1, args.up, 1)) ||
                           overlap(args, args.gate, args.step, args.grad_out, 1) ||
                           overlap(args, args.up, args.step, args.grad_out, 1)))
    fail<ValueError>("inplace_backward: expected gate, up and grad_out without common memory");
  if (needs & kGate) args.grad_gate = args.gate;
  if (needs & (up ? kUp : kGate)) args.grad_up = args.up;
  return backward_with_sums(args, gate, parameter, needs);
}

Tensor glu_backward_inplace(Tensor grad_out, Tensor gate, OptionalTensor up,
                            OptionalTensor gate_bias, OptionalTensor up_bias,
                            OptionalTensor parameter, double scalar, double limit, int64_t variant,
                            int64_t layout, int64_t needs) {
  return backward_inplace(
      grad_out, gate, up,
      checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout),
      parameter, needs, false);
}

// As glu_backward_inplace, and writes the product over grad_out.
Tensor glu_backward_product(Tensor grad_out, Tensor gate, OptionalTensor up,
                            OptionalTensor gate_bias, OptionalTensor up_bias,
                            OptionalTensor parameter, double scalar, double limit, int64_t variant,
                            int64_t layout, int64_t needs) {
  return backward_inplace(
      grad_out, gate, up,
      checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout),
      parameter, needs, true);
}

// (grad_out's gradient, gate's, up's); what is not asked for, or was packed with gate's, is empty.
std::tuple<Tensor, Tensor, Tensor> glu_second(OptionalTensor grad_out, Tensor gate,
                                              OptionalTensor up, OptionalTensor gate_tangent,
                                              OptionalTensor up_tangent, OptionalTensor gate_bias,
                                              OptionalTensor up_bias, OptionalTensor parameter,
                                              double scalar, double limit, int64_t variant,
                                              int64_t layout, bool needs_out, bool needs_inputs) {
  Inputs in = checked_call(gate, up, gate_bias, up_bias, parameter, scalar, limit, variant, layout);
  GluArgs& args = in.args;
  const char* name = up ? "gate" : "x";
  const int64_t width = gate.size(gate.dim() - 1);
  const auto read = [&](const OptionalTensor& t, const char* what, int64_t cols) -> OptionalTensor {
    if (!t) return std::nullopt;
    check_matches(*t, what, gate, name, cols);
    return with_row_stride(*t);
  };
  const OptionalTensor seed = read(grad_out, "grad_out", args.cols);
  const OptionalTensor along_gate = read(gate_tangent, "gate_tangent", width);
  const OptionalTensor along_up = read(up_tangent, "up_tangent", width);
  if (seed) args.grad_out = operand_of(*seed);
  place(along_gate, along_up, !up, layout, args, &args.gate_tangent, &args.up_tangent);

  Tensor out = needs_out ? empty_like(gate, args.cols) : empty(gate);
  Tensor grad_gate = needs_inputs ? empty_like(gate, width) : empty(gate);
  Tensor grad_up = needs_inputs && up ? empty_like(gate, width) : empty(gate);
  if (needs_out) args.out = operand_of(out);
  if (needs_inputs) place(grad_gate, grad_up, !up, layout, args, &args.grad_gate, &args.grad_up);
  run(Direction::kSecond, args, gate);
  return {out, grad_gate, grad_up};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("glu_forward_options", TORCH_BOX(&glu_forward_options));
  m.impl("glu_forward_options_out", TORCH_BOX(&glu_forward_options_out));
  m.impl("glu_backward_options", TORCH_BOX(&glu_backward_options));
  m.impl("glu_backward_inplace", TORCH_BOX(&glu_backward_inplace));
  m.impl("glu_backward_product", TORCH_BOX(&glu_backward_product));
  m.impl("glu_second", TORCH_BOX(&glu_second));
}

#define FUSED_ACTS_OPTIONS                                                             \
  "Tensor? gate_bias, Tensor? up_bias, Tensor? parameter, float scalar, float limit, " \
  "int variant, int layout"

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fused_acts, m) {
  m.def("glu_forward_options(Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS ") -> Tensor");
  m.def("glu_forward_options_out(Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS
        ", Tensor(a!) out) -> ()");
  m.def("glu_backward_options(Tensor grad_out, Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS
        ", int needs) -> (Tensor, Tensor, Tensor)");
  m.def("glu_backward_inplace(Tensor grad_out, Tensor(a!) gate, Tensor(b!)? up, " FUSED_ACTS_OPTIONS
        ", int needs) -> Tensor");
  m.def(
      "glu_backward_product(Tensor(a!) grad_out, Tensor(b!) gate, Tensor(c!)? "
      "up, " FUSED_ACTS_OPTIONS ", int needs) -> Tensor");
  m.def(
      "glu_second(Tensor? grad_out, Tensor gate, Tensor? up, Tensor? gate_tangent, Tensor? "
      "up_tangent, " FUSED_ACTS_OPTIONS
      ", bool needs_out, bool needs_inputs) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_acts, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(fused_acts, CUDA, m) { implement(m); }

}  // namespace fused_acts
