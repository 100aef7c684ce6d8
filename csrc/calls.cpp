#include "calls.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cuda_call.h"

namespace fused_acts {
namespace {

// Below so many elements another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

void run_on_cpu(Direction direction, const GluArgs& args) {
  if (direction != Direction::kSecond && cpu::has_dense_loops(args)) {
    const auto kernel = direction == Direction::kForward ? cpu::glu_forward : cpu::glu_backward;
    torch::stable::parallel_for(0, args.rows * args.cols, kGrain,
                                [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
    return;
  }
  const int64_t tiles = cpu::tile_count(args), tile = args.rows * args.cols / tiles;
  torch::stable::parallel_for(
      0, tiles, std::max<int64_t>(kGrain / std::max<int64_t>(tile, 1), 1),
      [&](int64_t begin, int64_t end) { cpu::glu_general(direction, args, begin, end); });
}

}  // namespace

void split(const Operand& packed, Layout layout, const GluArgs& args, Operand* gate, Operand* up) {
  const int64_t second = layout == Layout::kInterleaved ? 1 : args.cols;
  *gate = packed;
  if (layout == Layout::kAlone) return;
  *up = packed;
  Operand* behind = layout == Layout::kUpGate ? gate : up;
  behind->data = static_cast<char*>(packed.data) + second * dtype_size(args.dtype);
}

Inputs checked_inputs(const Tensor& gate, const std::optional<Tensor>& up, int64_t variant,
                      int64_t layout) {
  const char* name = up ? "gate" : "x";
  if (variant < 0 || variant >= static_cast<int64_t>(Variant::kCount))
    fail<ValueError>("variant: expected an index below ", static_cast<int64_t>(Variant::kCount),
                     ", got ", variant);
  if (layout < 0 || layout >= static_cast<int64_t>(Layout::kCount))
    fail<ValueError>("layout: expected an index below ", static_cast<int64_t>(Layout::kCount),
                     ", got ", layout);
  const bool alone = static_cast<Layout>(layout) == Layout::kAlone;
  if (alone != is_alone(static_cast<Variant>(variant)))
    fail<ValueError>("layout: expected ", static_cast<int64_t>(Layout::kAlone),
                     " for activations alone and only for them, got ", layout);
  if (alone && up) fail<ValueError>("up: expected none for an activation alone");
  const DType dtype = checked_dtype(gate, name);
  if (gate.dim() == 0)
    fail<ValueError>(name, ": expected at least one dimension, got a 0-d tensor");
  const int64_t width = gate.size(gate.dim() - 1);
  if (!up && !alone && width % 2 != 0)
    fail<ValueError>("x: expected an even last dimension, gate and up packed, got shape ",
                     shape_of(gate));
  check_device(gate, name);
  if (up) check_matches(*up, "up", gate, "gate", width);

  Inputs in;
  GluArgs& args = in.args;
  args.variant = static_cast<Variant>(variant);
  args.dtype = dtype;
  args.rows = width == 0 ? 0 : gate.numel() / width;
  args.cols = up || alone ? width : width / 2;
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

void check_rows_unwritten(const GluArgs& args, const Operand& out) {
  check_no_overlap(args, out, args.gate_bias, is_alone(args.variant) ? "bias" : "gate_bias");
  check_no_overlap(args, out, args.up_bias, "up_bias");
  check_no_overlap(args, out, args.parameter, "parameter");
}

void run(Direction direction, GluArgs args, const Tensor& input) {
  if (args.rows == 0 || args.cols == 0) return;
  if (!args.has_rows()) flatten_if_dense(args);
#ifdef FUSED_ACTS_WITH_CUDA
  if (input.is_cuda()) {
    run_on_cuda(input, [&](void* stream) {
      return direction == Direction::kForward    ? cuda::glu_forward(args, stream)
             : direction == Direction::kBackward ? cuda::glu_backward(args, stream)
                                                 : cuda::glu_second(args, stream);
    });
    return;
  }
#endif
  run_on_cpu(direction, args);
}

void forward_into(Inputs& in, const Tensor& gate, const char* name, const Tensor& out) {
  check_matches(out, "out", gate, name, in.args.cols);
  if (out.numel() == 0) return;
  if (!is_matrix(out)) {
    Tensor dense = empty_like(gate, in.args.cols);
    in.args.out = operand_of(dense);
    run(Direction::kForward, in.args, gate);
    Tensor target = out;
    torch::stable::copy_(target, dense);
    return;
  }
  in.args.out = operand_of(out);
  check_rows_apart(in.args, in.args.out, "out");
  check_no_partial_overlap(in.args, in.args.out, in.args.gate, name);
  if (in.args.up.data)
    check_no_partial_overlap(in.args, in.args.out, in.args.up, in.up.defined() ? "up" : name);
  check_rows_unwritten(in.args, in.args.out);
  run(Direction::kForward, in.args, gate);
}

void add_chunks(const SumArgs& args, const Tensor& input) {
#ifdef FUSED_ACTS_WITH_CUDA
  if (input.is_cuda()) {
    run_on_cuda(input, [&](void* stream) { return cuda::add_chunks(args, stream); });
    return;
  }
#endif
  cpu::add_chunks(args);
}

}  // namespace fused_acts
