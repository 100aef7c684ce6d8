// The gradients of one call by all its operands.
#pragma once

#include "ops/glu_args.h"

namespace fused_acts {

// Which gradients a backward call is asked for. Those of packed gate and up are kGate's.
enum Needs : int64_t {
  kGate = 1,
  kUp = 2,
  kGateBias = 4,
  kUpBias = 8,
  kParameter = 16,
  kRowWeight = 32
};

// What is not asked for, or was packed with gate's, is absent.
struct Gradients {
  OptionalTensor gate, up, gate_bias, up_bias, parameter, row_weight;
};

// Runs a backward call whose gradients by gate and up have their places, and makes those of vectors
// that `needs` names, of their shapes and dtypes.
void run_backward(GluCall& call, const Options& options, int64_t needs, Gradients* gradients);

}  // namespace fused_acts
