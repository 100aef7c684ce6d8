// What host code has of a unit: the answers to what it asks, and the way to loops and kernels. A
// row of the tables and a unit of one's own, whose code a library brings along, are alike to it.
#pragma once

#include <cstdint>

#include "math/storage.h"
#include "math/variants.h"

namespace fused_acts {

struct GluArgs;
struct QuantizedArgs;

namespace cpu {

struct Loops;

// Those of the instruction set that runs, see cpu/isa.h.
const Loops& loops_for(DType dtype);

}  // namespace cpu

// See kernels/glu.h and kernels/quantized.h. All are null where no kernels are compiled.
struct UnitKernels {
  int (*forward)(const GluArgs& args, void* stream);
  int (*backward)(const GluArgs& args, void* stream);
  int (*double_backward)(const GluArgs& args, void* stream);
  int64_t (*column_tiles)(const GluArgs& args);
  int (*quantized)(const QuantizedArgs& args, void* stream);
};

struct UnitCode {
  Variant variant;  // in the tables of the library that has the code
  bool is_unary;
  bool has_plain_kernels, takes_numbers;  // kernels and loops without numbers, and with them
  int parameter_count;                    // how many numbers it can learn
  double usual_parameter;                 // which loops without numbers have
  const cpu::Loops& (*loops_for)(DType dtype);
  UnitKernels cuda;
};

}  // namespace fused_acts
