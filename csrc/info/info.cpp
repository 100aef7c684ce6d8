// Operators without tensors, fused_acts::info_*: the tables, the instruction set, launch plans.
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cuda/plan.h"
#include "kernels/glu.h"
#include "math/variants.h"
#include "ops/library.h"
#include "ops/units.h"

namespace fused_acts {
namespace {

// A line for each row, in the order of the table: "variant f g".
std::string info_variants() {
  std::string rows;
#define FUSED_ACTS_NAMES(name, f, g) \
  rows += std::string(#name " ") + f<Math64>::kName + " " + g<Math64>::kName + "\n";
  FUSED_ACTS_VARIANTS(FUSED_ACTS_NAMES)
#undef FUSED_ACTS_NAMES
  return rows;
}

// "activation f"
std::string info_activations() {
  std::string rows;
#define FUSED_ACTS_NAMES(name, f, g) rows += std::string(#name " ") + f<Math64>::kName + "\n";
  FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_NAMES)
#undef FUSED_ACTS_NAMES
  return rows;
}

std::string info_cpu_capability() { return cpu::isa_name(); }

DType dtype_named(const std::string& name) {
  if (name == "float64") return DType::kFloat64;
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw std::invalid_argument("dtype: expected float64, float32, float16 or bfloat16, got " + name);
}

// What a CUDA kernel would be launched with, on any machine: its kind (0 flat, 1 row, 2 general),
// grid, block, bytes of an access to gate and up, accesses of a thread to each at once. row_stride
// and offset, in elements, are those of the inputs: of gate and up, or of the packed tensor; offset
// counts from an address that is a multiple of 256 bytes. Outputs and grad_out are dense and start
// at such an address.
std::vector<int64_t> info_launch_plan(const std::string& dtype, int64_t rows, int64_t cols,
                                      const std::string& layout, std::optional<int64_t> row_stride,
                                      int64_t offset, bool backward, int64_t widest_access) {
  const bool two = layout == "separate", interleaved = layout == "interleaved";
  if (!two && !interleaved && layout != "gate_up" && layout != "up_gate")
    throw std::invalid_argument("layout: expected separate, gate_up, up_gate or interleaved, got " +
                                layout);
  if (rows < 1 || cols < 1)
    throw std::invalid_argument("rows, cols: expected at least 1, got " + std::to_string(rows) +
                                ", " + std::to_string(cols));
  GluArgs args{};
  args.unit = &unit_at(0);
  args.dtype = dtype_named(dtype);
  args.rows = rows;
  args.cols = cols;
  args.step = interleaved ? 2 : 1;
  const int64_t size = dtype_size(args.dtype), width = two ? cols : 2 * cols;
  const auto place = [&](int64_t address, int64_t stride) {
    return Matrix{reinterpret_cast<void*>(address), stride};
  };
  // gate and up: two matrices, or parts of a packed one
  const auto place_both = [&](int64_t address, int64_t stride, Matrix* gate, Matrix* up) {
    const int64_t second = two ? int64_t{1} << 44 : (interleaved ? 1 : cols) * size;
    *gate = place(address, stride);
    *up = place(address + second, stride);
    if (layout == "up_gate") std::swap(*gate, *up);
  };
  place_both((int64_t{1} << 45) + offset * size, row_stride.value_or(width), &args.gate, &args.up);
  if (backward) {
    args.grad_out = place(int64_t{1} << 46, cols);
    place_both(int64_t{1} << 47, width, &args.grad_gate, &args.grad_up);
  } else {
    args.out = place(int64_t{1} << 46, cols);
  }
  fold_rows(args);
  if (const auto plan = cuda::make_flat_plan(args, static_cast<int>(widest_access)))
    return {0, plan->grid, cuda::kBlock, plan->access_bytes, plan->vectors};
  const cuda::RowPlan plan = cuda::make_row_plan(args, false, static_cast<int>(widest_access));
  const int64_t bytes = plan.access_bytes * (plan.pairs && !plan.wide ? 2 : 1);
  return {plan.wide ? 1 : 2, plan.tiles * plan.segments, cuda::kBlock, bytes, 1};
}

}  // namespace

FUSED_ACTS_DEFINE(m) {
  m.def("info_variants() -> str");
  m.def("info_activations() -> str");
  m.def("info_cpu_capability() -> str");
  m.def(
      "info_launch_plan(str dtype, int rows, int cols, str layout, int? row_stride, int offset, "
      "bool backward, int widest_access) -> int[]");
}

FUSED_ACTS_IMPLEMENT(CompositeExplicitAutograd, m) {
  m.impl("info_variants", TORCH_BOX(&info_variants));
  m.impl("info_activations", TORCH_BOX(&info_activations));
  m.impl("info_cpu_capability", TORCH_BOX(&info_cpu_capability));
  m.impl("info_launch_plan", TORCH_BOX(&info_launch_plan));
}

}  // namespace fused_acts
