// From the tensors of a call to its GluArgs, and from these to a kernel.
#pragma once

#include <limits>
#include <optional>

#include "ops/tensors.h"

namespace fused_acts {

// What a packed tensor holds first: gate, up, or both in turns, from kInterleaved on of one column
// more each time.
enum Layout : int64_t { kGateUp, kUpGate, kInterleaved };

// What a tensor says of rows: where those of each expert end, how many are its own of equally many,
// or whose each is. And whether padding is to be written 0.
enum RowKind : int64_t { kNoExperts, kEnds, kCounts, kOfRow, kZeroPadding = 4 };

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// What a call is asked for beside gate and up; what is absent is null.
struct Options {
  const Tensor *gate_bias = nullptr, *up_bias = nullptr, *parameter = nullptr;
  const Tensor *row_weight = nullptr, *experts = nullptr;
  double scalar = 1.0, second = 1.0;  // the parameters where they are no tensor
  double limit = kNoLimit;
  double weight = 1.0;
  int64_t variant, layout;
  int64_t rows = 0;  // what `experts` is, see RowKind
};

// A checked call: its arguments, and what holds the memory of gate and up.
struct GluCall {
  View gate;  // or x, packed [..., 2 * cols] or of an activation [..., cols]
  std::optional<View> up;
  int64_t layout;
  GluArgs args;
  OptionalTensor gate_copy, up_copy, vector_copies[3], weight_copy;
  // The x of an activation, dense in another order than that of its dimensions: the matrices have
  // the elements as they lie in memory.
  bool permuted = false;

  // The name of `gate` in messages.
  const char* name() const { return up ? "gate" : "x"; }
  bool is_packed() const { return !up && !args.unit->is_unary; }

  // As gate, or with other columns.
  NewMatrix new_matrix(int64_t cols) const {
    return permuted ? NewMatrix(gate) : NewMatrix(gate, cols);
  }

  // Points gate and up, their gradients or tangents, at a matrix each, or into the packed one that
  // stands for both. What is not there stays null.
  void place(const Matrix* first, const Matrix* second, Matrix* to_gate, Matrix* to_up) const;
};

// by_elements: whether the caller can do with the matrices of a permuted gate.
GluCall checked_call(const Tensor& gate, const OptionalTensor& up, const Options& options,
                     bool by_elements = false);

// Runs a call on the device of its gate.
void run(Direction direction, const GluCall& call);

}  // namespace fused_acts
