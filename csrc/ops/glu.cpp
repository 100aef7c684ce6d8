// The operators of the gated units and of activations.
#include <tuple>

#include "ops/glu_gradients.h"
#include "ops/glu_options.h"
#include "ops/library.h"
#include "ops/overlap.h"

namespace fused_acts {
namespace {

// Compiled code keeps a number that changes symbolic only as a tensor, which is on the CPU.
double number_in(const Tensor& tensor, const char* name) {
  const View number(tensor, name);
  if (!number.is_cpu() || number.numel != 1 || checked_dtype(number, name) != DType::kFloat64)
    fail(name, ": expected a float64 number on the CPU");
  return *static_cast<const double*>(number.data);
}

std::optional<double> number_in(const OptionalTensor& tensor, const char* name) {
  if (!tensor) return std::nullopt;
  return number_in(*tensor, name);
}

// ---- Forward ----

Tensor forward(const Tensor& gate, const OptionalTensor& up, const Options& options) {
  GluCall call = checked_call(gate, up, options, true);
  NewMatrix out = call.new_matrix(call.args.cols);
  call.args.out = out.matrix;
  run(Direction::kForward, call);
  return std::move(out.tensor);
}

Tensor glu_forward(const Tensor& gate, const OptionalTensor& up, int64_t variant, int64_t layout) {
  Options options;
  options.variant = variant;
  options.layout = layout;
  return forward(gate, up, options);
}

Tensor glu_forward_options(const Tensor& gate, const OptionalTensor& up, FUSED_ACTS_OPTIONS,
                           FUSED_ACTS_OF_ROWS) {
  return forward(gate, up, FUSED_ACTS_GIVEN);
}

Tensor glu_forward_numbers(const Tensor& gate, const OptionalTensor& up,
                           const OptionalTensor& gate_bias, const OptionalTensor& up_bias,
                           const OptionalTensor& parameter, const Tensor& scalar,
                           const Tensor& second, const OptionalTensor& limit, const Tensor& weight,
                           int64_t variant, int64_t layout, FUSED_ACTS_OF_ROWS) {
  return glu_forward_options(gate, up, gate_bias, up_bias, parameter, number_in(scalar, "scalar"),
                             number_in(second, "second"), number_in(limit, "limit"),
                             number_in(weight, "weight"), variant, layout, row_weight, experts,
                             rows);
}

void glu_forward_out(const Tensor& gate, const OptionalTensor& up, int64_t variant, int64_t layout,
                     const Tensor& out_tensor, const OptionalTensor& gate_bias,
                     const OptionalTensor& up_bias, const OptionalTensor& parameter, double scalar,
                     double second, std::optional<double> limit, double weight,
                     FUSED_ACTS_OF_ROWS) {
  GluCall call = checked_call(gate, up, FUSED_ACTS_GIVEN, true);
  const View out(out_tensor, "out");
  check_matches(out, "out", call.gate, call.name(), call.args.cols);
  if (out.numel == 0) return;
  check_elements_apart(out, "out");
  if (call.permuted ? !(out.aligned && same_strides(out, call.gate)) : !is_matrix(out)) {
    NewMatrix dense = call.new_matrix(call.args.cols);
    call.args.out = dense.matrix;
    if (call.args.experts.any()) copy_values(dense.tensor, out_tensor);  // padding stays as it is
    run(Direction::kForward, call);
    copy_values(out_tensor, dense.tensor);
    return;
  }
  GluArgs& args = call.args;
  args.out = call.permuted ? ReadMatrix(out, call.gate).matrix : matrix_of(out);
  check_no_partial_overlap(args, args.out, args.gate, call.name());
  if (args.up.data) check_no_partial_overlap(args, args.out, args.up, call.up ? "up" : "x");
  check_vectors_unwritten(args, args.out, args.cols);
  run(Direction::kForward, call);
}

// ---- Backward ----

// The matrix of a ReadMatrix or NewMatrix that may be absent.
template <class Holder>
const Matrix* matrix(const std::optional<Holder>& holder) {
  return holder ? &holder->matrix : nullptr;
}

Gradients backward(const Tensor& grad_tensor, const Tensor& gate_tensor, const OptionalTensor& up,
                   const Options& options, int64_t needs) {
  GluCall call = checked_call(gate_tensor, up, options, true);
  GluArgs& args = call.args;
  const View& gate = call.gate;
  const View grad_out(grad_tensor, "grad_out");
  check_matches(grad_out, "grad_out", gate, call.name(), args.cols);
  const ReadMatrix grad = call.permuted ? ReadMatrix(grad_out, gate) : ReadMatrix(grad_out);
  args.grad_out = grad.matrix;
  std::optional<NewMatrix> grad_gate, grad_up;
  if (needs & kGate) grad_gate = call.new_matrix(gate.last_size());
  if (up && needs & kUp) grad_up.emplace(gate, gate.last_size());
  call.place(matrix(grad_gate), matrix(grad_up), &args.grad_gate, &args.grad_up);
  Gradients gradients;
  run_backward(call, options, needs, &gradients);
  if (grad_gate) gradients.gate = std::move(grad_gate->tensor);
  if (grad_up) gradients.up = std::move(grad_up->tensor);
  return gradients;
}

// The results of operators: [0] in the place of what is absent.
Tensor present(OptionalTensor& t, const Tensor& gate) {
  return t ? *std::move(t) : new_empty(View(gate, "gate"));
}

std::tuple<Tensor, Tensor> glu_backward(const Tensor& grad_out, const Tensor& gate,
                                        const OptionalTensor& up, int64_t variant, int64_t layout,
                                        int64_t needs) {
  Options options;
  options.variant = variant;
  options.layout = layout;
  Gradients by = backward(grad_out, gate, up, options, needs);
  return {present(by.gate, gate), present(by.up, gate)};
}

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

SixTensors glu_backward_options(const Tensor& grad_out, const Tensor& gate,
                                const OptionalTensor& up, FUSED_ACTS_OPTIONS, int64_t needs,
                                FUSED_ACTS_OF_ROWS) {
  Gradients by = backward(grad_out, gate, up, FUSED_ACTS_GIVEN, needs);
  return {present(by.gate, gate),    present(by.up, gate),        present(by.gate_bias, gate),
          present(by.up_bias, gate), present(by.parameter, gate), present(by.row_weight, gate)};
}

SixTensors glu_backward_numbers(const Tensor& grad_out, const Tensor& gate,
                                const OptionalTensor& up, const OptionalTensor& gate_bias,
                                const OptionalTensor& up_bias, const OptionalTensor& parameter,
                                const Tensor& scalar, const Tensor& second,
                                const OptionalTensor& limit, const Tensor& weight, int64_t variant,
                                int64_t layout, int64_t needs, FUSED_ACTS_OF_ROWS) {
  return glu_backward_options(grad_out, gate, up, gate_bias, up_bias, parameter,
                              number_in(scalar, "scalar"), number_in(second, "second"),
                              number_in(limit, "limit"), number_in(weight, "weight"), variant,
                              layout, needs, row_weight, experts, rows);
}

// Writes the gradients over gate and up, and the product over grad_out if that is wanted, and
// returns those of gate_bias, up_bias, parameter and row_weight. What is written is dense or evenly
// spaced and shares no memory.
std::tuple<Tensor, Tensor, Tensor, Tensor> glu_backward_inplace(const Tensor& grad_tensor,
                                                                const Tensor& gate_tensor,
                                                                const OptionalTensor& up,
                                                                FUSED_ACTS_OPTIONS, int64_t needs,
                                                                bool product, FUSED_ACTS_OF_ROWS) {
  const Options options = FUSED_ACTS_GIVEN;
  GluCall call = checked_call(gate_tensor, up, options);
  GluArgs& args = call.args;
  const View& gate = call.gate;
  const View grad_out(grad_tensor, "grad_out");
  check_matches(grad_out, "grad_out", gate, call.name(), args.cols);
  // Copies of what begins between two elements are written, and then go where they came from.
  if ((call.gate_copy && !is_misaligned(call.gate_copy, gate)) ||
      (call.up_copy && !is_misaligned(call.up_copy, *call.up)))
    fail("inplace_backward: expected gate and up with dense, evenly spaced rows");
  const ReadMatrix grad(grad_out);
  if (product && grad.copy && !is_misaligned(grad.copy, grad_out))
    fail("grad_out: expected dense, evenly spaced rows, for the product to go there");
  args.grad_out = grad.matrix;
  args.product = product;
  if (gate.numel > 0) check_in_place(call, grad, grad_out, product);
  if (needs & kGate) args.grad_gate = args.gate;
  if (needs & (up ? kUp : kGate)) args.grad_up = args.up;
  Gradients by;
  run_backward(call, options, needs, &by);
  const auto put_back = [](const OptionalTensor& copy, const Tensor& target) {
    if (copy) copy_values(target, *copy);
  };
  if (needs & kGate) put_back(call.gate_copy, gate_tensor);
  if (up && needs & kUp) put_back(call.up_copy, *up);
  if (product) put_back(grad.copy, grad_tensor);
  return {present(by.gate_bias, gate_tensor), present(by.up_bias, gate_tensor),
          present(by.parameter, gate_tensor), present(by.row_weight, gate_tensor)};
}

// ---- Double backward ----

// (grad_out's gradient, gate's, up's); what is not asked for, or was packed with gate's, is [0].
// There is none of row weights or experts.
std::tuple<Tensor, Tensor, Tensor> glu_double_backward(
    const OptionalTensor& grad_out, const Tensor& gate_tensor, const OptionalTensor& up,
    const OptionalTensor& gate_tangent, const OptionalTensor& up_tangent,
    const OptionalTensor& gate_bias, const OptionalTensor& up_bias, const OptionalTensor& parameter,
    double scalar, double second, std::optional<double> limit, double weight, int64_t variant,
    int64_t layout, bool needs_out, bool needs_inputs) {
  const OptionalTensor row_weight, experts;
  const int64_t rows = kNoExperts;
  GluCall call = checked_call(gate_tensor, up, FUSED_ACTS_GIVEN);
  GluArgs& args = call.args;
  const View& gate = call.gate;
  const int64_t width = gate.last_size();
  const auto read = [&](const OptionalTensor& t, const char* name, int64_t cols) {
    std::optional<ReadMatrix> matrix;
    if (!t) return matrix;
    const View view(*t, name);
    check_matches(view, name, gate, call.name(), cols);
    matrix.emplace(view);
    return matrix;
  };
  const auto seed = read(grad_out, "grad_out", args.cols);
  const auto along_gate = read(gate_tangent, "gate_tangent", width);
  const auto along_up = read(up_tangent, "up_tangent", width);
  if (seed) args.grad_out = seed->matrix;
  call.place(matrix(along_gate), matrix(along_up), &args.gate_tangent, &args.up_tangent);

  std::optional<NewMatrix> out, grad_gate, grad_up;
  if (needs_out) out.emplace(gate, args.cols);
  if (needs_inputs) grad_gate.emplace(gate, width);
  if (needs_inputs && up) grad_up.emplace(gate, width);
  if (out) args.out = out->matrix;
  call.place(matrix(grad_gate), matrix(grad_up), &args.grad_gate, &args.grad_up);
  run(Direction::kDoubleBackward, call);
  return {result(out, gate), result(grad_gate, gate), result(grad_up, gate)};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("glu_forward", TORCH_BOX(&glu_forward));
  m.impl("glu_forward_options", TORCH_BOX(&glu_forward_options));
  m.impl("gated", TORCH_BOX(&glu_forward_options));
  m.impl("glu_forward_numbers", TORCH_BOX(&glu_forward_numbers));
  m.impl("glu_backward_numbers", TORCH_BOX(&glu_backward_numbers));
  m.impl("glu_forward_out", TORCH_BOX(&glu_forward_out));
  m.impl("glu_backward", TORCH_BOX(&glu_backward));
  m.impl("glu_backward_options", TORCH_BOX(&glu_backward_options));
  m.impl("glu_backward_inplace", TORCH_BOX(&glu_backward_inplace));
  m.impl("glu_double_backward", TORCH_BOX(&glu_double_backward));
}

}  // namespace

#define NUMBERS      \
  FUSED_ACTS_VECTORS \
  "Tensor scalar, Tensor second, Tensor? limit, Tensor weight, int variant, int layout"

FUSED_ACTS_DEFINE(m) {
  m.def("glu_forward(Tensor gate, Tensor? up, int variant, int layout) -> Tensor");
  m.def(
      "glu_forward_options(Tensor gate, Tensor? "
      "up, " FUSED_ACTS_OPTIONS_SCHEMA FUSED_ACTS_OF_ROWS_SCHEMA ") -> Tensor");
  // The same with a derivative, which Python registers: what a recorded program calls.
  m.def("gated(Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS_SCHEMA FUSED_ACTS_OF_ROWS_SCHEMA
        ") -> Tensor");
  // Options that are not given are quicker: there is one operator for calls with and without.
  m.def(
      "glu_forward_out(Tensor gate, Tensor? up, int variant, int layout, Tensor(a!) out, "
      "Tensor? gate_bias=None, Tensor? up_bias=None, Tensor? parameter=None, float scalar=1.0, "
      "float second=1.0, float? limit=None, float weight=1.0" FUSED_ACTS_OF_ROWS_SCHEMA ") -> ()");
  m.def(
      "glu_backward(Tensor grad_out, Tensor gate, Tensor? up, int variant, int layout, int needs) "
      "-> (Tensor, Tensor)");
  m.def("glu_backward_options(Tensor grad_out, Tensor gate, Tensor? up, " FUSED_ACTS_OPTIONS_SCHEMA
        ", int needs" FUSED_ACTS_OF_ROWS_SCHEMA
        ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The two with numbers that change from one call of compiled code to the next.
  m.def("glu_forward_numbers(Tensor gate, Tensor? up, " NUMBERS FUSED_ACTS_OF_ROWS_SCHEMA
        ") -> Tensor");
  m.def("glu_backward_numbers(Tensor grad_out, Tensor gate, Tensor? up, " NUMBERS
        ", int needs" FUSED_ACTS_OF_ROWS_SCHEMA
        ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "glu_backward_inplace(Tensor(a!) grad_out, Tensor(b!) gate, Tensor(c!)? "
      "up, " FUSED_ACTS_OPTIONS_SCHEMA ", int needs, bool product" FUSED_ACTS_OF_ROWS_SCHEMA
      ") -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "glu_double_backward(Tensor? grad_out, Tensor gate, Tensor? up, Tensor? gate_tangent, "
      "Tensor? up_tangent, " FUSED_ACTS_OPTIONS_SCHEMA
      ", bool needs_out, bool needs_inputs) -> (Tensor, Tensor, Tensor)");
}

#undef NUMBERS

FUSED_ACTS_IMPLEMENT(CPU, m) { implement(m); }
// In CPU builds too: it says how to rebuild.
FUSED_ACTS_IMPLEMENT(CUDA, m) { implement(m); }

}  // namespace fused_acts
