// The operators of softmax_glu.
#include "kernels/softmax_glu.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/backend.h"
#include "ops/library.h"

namespace fused_acts {
namespace {

constexpr int64_t kGrain = 8192;  // elements

// A checked call: its arguments, and what holds the memory of gate and up.
struct SoftmaxGluCall {
  View gate, up;
  SoftmaxGluArgs args;
  OptionalTensor gate_copy, up_copy;
};

SoftmaxGluCall checked_call(const Tensor& gate_tensor, const Tensor& up_tensor) {
  SoftmaxGluCall call{View(gate_tensor, "gate"), View(up_tensor, "up"), {}, {}, {}};
  const View& gate = call.gate;
  SoftmaxGluArgs& args = call.args;
  args.dtype = checked_dtype(gate, "gate");
  if (gate.rank == 0) fail("gate: expected at least one dimension, got a 0-d tensor");
  check_device(gate, "gate");
  args.cols = gate.last_size();
  check_matches(call.up, "up", gate, "gate", args.cols);
  args.rows = args.cols == 0 ? 0 : gate.numel / args.cols;
  ReadMatrix first(gate), second(call.up);
  args.gate = first.matrix;
  args.up = second.matrix;
  call.gate_copy = std::move(first.copy);
  call.up_copy = std::move(second.copy);
  return call;
}

// [..., 2]
std::vector<int64_t> stats_sizes(const View& gate) {
  std::vector<int64_t> result(gate.sizes, gate.sizes + gate.rank);
  result.back() = 2;
  return result;
}

// Parts of a row depend on its length alone, so that every number of threads adds alike.
void run_on_cpu(Direction direction, SoftmaxGluArgs args) {
  args.parts = (args.cols + kGrain - 1) / kGrain;
  std::vector<double> partials(2 * args.rows * args.parts);
  args.partials = partials.data();
  const int64_t grain = std::max<int64_t>(kGrain / args.cols, 1);
  if (args.parts == 1) {
    // a row stays in the caches between its passes
    parallel_for(args.rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        cpu::softmax_glu_add(direction, args, row, row + 1);
        cpu::softmax_glu_finish(direction, args, row, row + 1);
      }
    });
    return;
  }
  parallel_for(args.rows * args.parts, grain, [&](int64_t begin, int64_t end) {
    cpu::softmax_glu_add(direction, args, begin, end);
  });
  parallel_for(args.rows * args.parts, grain, [&](int64_t begin, int64_t end) {
    cpu::softmax_glu_finish(direction, args, begin, end);
  });
}

void run(Direction direction, const SoftmaxGluCall& call) {
  const SoftmaxGluArgs& args = call.args;
  if (args.rows == 0 || args.cols == 0) return;
  const bool forward = direction == Direction::kForward;
  run_where_it_is(
      call.gate,
      [&](void* stream) {
        return forward ? cuda::softmax_glu_forward(args, stream)
                       : cuda::softmax_glu_backward(args, stream);
      },
      [&] { run_on_cpu(direction, args); });
}

std::tuple<Tensor, Tensor> softmax_glu_forward(const Tensor& gate, const Tensor& up) {
  SoftmaxGluCall call = checked_call(gate, up);
  NewMatrix out(call.gate, call.args.cols);
  const std::vector<int64_t> sizes = stats_sizes(call.gate);
  Tensor stats = new_tensor(call.gate, real_dtype(call.gate), call.gate.rank, sizes.data());
  call.args.out = out.matrix;
  call.args.stats = data_of(stats);
  run(Direction::kForward, call);
  return {std::move(out.tensor), std::move(stats)};
}

// A gradient that is not needed is [0].
std::tuple<Tensor, Tensor> softmax_glu_backward(const Tensor& grad_tensor,
                                                const Tensor& gate_tensor, const Tensor& up,
                                                const Tensor& stats_tensor, bool needs_gate,
                                                bool needs_up) {
  SoftmaxGluCall call = checked_call(gate_tensor, up);
  SoftmaxGluArgs& args = call.args;
  const View& gate = call.gate;
  const View grad_out(grad_tensor, "grad_out"), stats(stats_tensor, "stats");
  check_matches(grad_out, "grad_out", gate, "gate", args.cols);
  if (!same_sizes(stats, gate.rank, stats_sizes(gate).data()))
    fail("stats: expected two values for each row of gate of shape ", shape_of(gate),
         ", got shape ", shape_of(stats));
  if (stats.dtype != real_dtype(gate)) fail("stats: expected the type that gate is computed in");
  if (!same_device(stats, gate)) fail("stats: expected the device of gate");
  const ReadMatrix grad(grad_out);
  const bool dense_already = stats.aligned && is_contiguous(stats);
  const Tensor dense = dense_already ? stats_tensor : copy_of(stats);
  std::optional<NewMatrix> grad_gate, grad_up;
  if (needs_gate) grad_gate.emplace(gate, args.cols);
  if (needs_up) grad_up.emplace(gate, args.cols);
  args.grad_out = grad.matrix;
  args.stats = data_of(dense);
  if (grad_gate) args.grad_gate = grad_gate->matrix;
  if (grad_up) args.grad_up = grad_up->matrix;
  if (needs_gate || needs_up) run(Direction::kBackward, call);
  return {result(grad_gate, gate), result(grad_up, gate)};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("softmax_glu_forward", TORCH_BOX(&softmax_glu_forward));
  m.impl("softmax_glu", TORCH_BOX(&softmax_glu_forward));
  m.impl("softmax_glu_backward", TORCH_BOX(&softmax_glu_backward));
}

}  // namespace

FUSED_ACTS_DEFINE(m) {
  m.def("softmax_glu_forward(Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def("softmax_glu(Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def(
      "softmax_glu_backward(Tensor grad_out, Tensor gate, Tensor up, Tensor stats, bool "
      "needs_gate, bool needs_up) -> (Tensor, Tensor)");
}

FUSED_ACTS_IMPLEMENT(CPU, m) { implement(m); }
FUSED_ACTS_IMPLEMENT(CUDA, m) { implement(m); }

}  // namespace fused_acts
