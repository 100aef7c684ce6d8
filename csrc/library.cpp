// The operators torch.ops.fused_acts.*: argument checks, allocation, dispatch to CPU and CUDA.
// Stable ABI only.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "operands.h"

namespace fused_acts {
namespace {

enum class Layout : int64_t { kGateUp, kUpGate, kInterleaved, kCount };

// gate and up of a call as operands, and the tensors that hold their memory.
struct Inputs {
  GluArgs args;
  Tensor gate, up;
};

// Points gate and up into the packed matrix [rows, 2 * cols].
void split(const Operand& packed, Layout layout, const GluArgs& args, Operand* gate, Operand* up) {
  const int64_t second = layout == Layout::kInterleaved ? 1 : args.cols;
  *gate = *up = packed;
  Operand* behind = layout == Layout::kUpGate ? gate : up;
  behind->data = static_cast<char*>(packed.data) + second * dtype_size(args.dtype);
}

// up absent: `gate` is the packed tensor x [..., 2 * cols].
Inputs checked_inputs(const Tensor& gate, const std::optional<Tensor>& up, int64_t variant,
                      int64_t layout) {
  const char* name = up ? "gate" : "x";
  if (variant < 0 || variant >= static_cast<int64_t>(Variant::kCount))
    fail<ValueError>("variant: expected an index below ", static_cast<int64_t>(Variant::kCount),
                     ", got ", variant);
  if (layout < 0 || layout >= static_cast<int64_t>(Layout::kCount))
    fail<ValueError>("layout: expected an index below ", static_cast<int64_t>(Layout::kCount),
                     ", got ", layout);
  const DType dtype = checked_dtype(gate, name);
  if (gate.dim() == 0)
    fail<ValueError>(name, ": expected at least one dimension, got a 0-d tensor");
  const int64_t width = gate.size(gate.dim() - 1);
  if (!up && width % 2 != 0)
    fail<ValueError>("x: expected an even last dimension, gate and up packed, got shape ",
                     shape_of(gate));
  check_device(gate, name);
  if (up) check_matches(*up, "up", gate, "gate", width);

  Inputs in;
  GluArgs& args = in.args;
  args.variant = static_cast<Variant>(variant);
  args.dtype = dtype;
  args.rows = width == 0 ? 0 : gate.numel() / width;
  args.cols = up ? width : width / 2;
  in.gate = with_row_stride(gate);
  if (up) {
    in.up = with_row_stride(*up);
    args.gate = operand_of(in.gate);
    args.up = operand_of(in.up);
  } else {
    args.step = static_cast<Layout>(layout) == Layout::kInterleaved ? 2 : 1;
    split(operand_of(in.gate), static_cast<Layout>(layout), args, &args.gate, &args.up);
  }
  return in;
}

using CpuKernel = void (*)(const GluArgs&, int64_t begin, int64_t end);
using CudaKernel = int (*)(const GluArgs&, void* stream);

#ifdef FUSED_ACTS_WITH_CUDA
constexpr CudaKernel kCudaForward = cuda::glu_forward, kCudaBackward = cuda::glu_backward;
#else
constexpr CudaKernel kCudaForward = nullptr, kCudaBackward = nullptr;
#endif

void run(GluArgs args, const Tensor& input, CpuKernel on_cpu, [[maybe_unused]] CudaKernel on_cuda) {
  if (args.rows == 0 || args.cols == 0) return;
  flatten_if_dense(args);
#ifdef FUSED_ACTS_WITH_CUDA
  if (input.is_cuda()) {
    const int32_t device = input.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    check_cuda(on_cuda(args, stream));
    return;
  }
#endif
  // below 16k elements another thread costs more than it saves
  constexpr int64_t kGrain = 16384;
  torch::stable::parallel_for(0, args.rows * args.cols, kGrain,
                              [&](int64_t begin, int64_t end) { on_cpu(args, begin, end); });
}

Tensor glu_forward(Tensor gate, std::optional<Tensor> up, int64_t variant, int64_t layout) {
  Inputs in = checked_inputs(gate, up, variant, layout);
  Tensor out = empty_like(gate, in.args.cols);
  in.args.out = operand_of(out);
  run(in.args, gate, cpu::glu_forward, kCudaForward);
  return out;
}

void glu_forward_out(Tensor gate, std::optional<Tensor> up, int64_t variant, int64_t layout,
                     Tensor out) {
  Inputs in = checked_inputs(gate, up, variant, layout);
  check_matches(out, "out", gate, up ? "gate" : "x", in.args.cols);
  if (out.numel() == 0) return;
  if (!is_matrix(out)) {
    Tensor dense = empty_like(gate, in.args.cols);
    in.args.out = operand_of(dense);
    run(in.args, gate, cpu::glu_forward, kCudaForward);
    torch::stable::copy_(out, dense);
    return;
  }
  in.args.out = operand_of(out);
  check_rows_apart(in.args, in.args.out, "out");
  check_no_partial_overlap(in.args, in.args.out, in.args.gate, "gate");
  check_no_partial_overlap(in.args, in.args.out, in.args.up, "up");
  run(in.args, gate, cpu::glu_forward, kCudaForward);
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
  if (needs_gate || needs_up) run(in.args, gate, cpu::glu_backward, kCudaBackward);
  return {grad_gate, grad_up};
}

Tensor glu_backward_packed(Tensor grad_out, Tensor x, int64_t variant, int64_t layout) {
  Inputs in = checked_inputs(x, std::nullopt, variant, layout);
  GluArgs& args = in.args;
  check_matches(grad_out, "grad_out", x, "x", args.cols);
  const Tensor grad = with_row_stride(grad_out);
  Tensor grad_x = empty_like(x, 2 * args.cols);
  args.grad_out = operand_of(grad);
  split(operand_of(grad_x), static_cast<Layout>(layout), args, &args.grad_gate, &args.grad_up);
  run(args, x, cpu::glu_backward, kCudaBackward);
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
