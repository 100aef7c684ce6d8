// From the tensors of a call to its GluArgs, and from these to a kernel. Stable ABI only.
#pragma once

#include <optional>

#include "operands.h"

namespace fused_acts {

// kAlone: not packed, for there is no up.
enum class Layout : int64_t { kGateUp, kUpGate, kInterleaved, kAlone, kCount };

// gate and up of a call as operands, and the tensors that hold their memory.
struct Inputs {
  GluArgs args;
  Tensor gate, up;
};

// up absent: `gate` is the packed tensor x [..., 2 * cols], or x [..., cols] of an activation.
Inputs checked_inputs(const Tensor& gate, const std::optional<Tensor>& up, int64_t variant,
                      int64_t layout);

// Points gate and up into the packed matrix [rows, 2 * cols].
void split(const Operand& packed, Layout layout, const GluArgs& args, Operand* gate, Operand* up);

// Throws if `out`, whose rows are apart, has an element in common with a bias or a parameter.
void check_rows_unwritten(const GluArgs& args, const Operand& out);

// Runs a call on the device of `input`.
void run(Direction direction, GluArgs args, const Tensor& input);

// Runs a forward call into `out`, or throws if that is not the place for a result; gate is called
// `name` there.
void forward_into(Inputs& in, const Tensor& gate, const char* name, const Tensor& out);

// Adds up what a backward call left in its sums, on the device of `input`.
void add_chunks(const SumArgs& args, const Tensor& input);

}  // namespace fused_acts
