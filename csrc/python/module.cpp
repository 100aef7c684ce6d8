// The Python module fused_acts._C: the tables, facts about the build, launch plans. No operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cuda/plan.h"
#include "kernels/glu.h"
#include "math/variants.h"

#ifndef FUSED_ACTS_CUDA_ARCHITECTURES
#define FUSED_ACTS_CUDA_ARCHITECTURES ""
#endif
#ifndef FUSED_ACTS_CUDA_VERSION
#define FUSED_ACTS_CUDA_VERSION ""
#endif

namespace fused_acts {
namespace {

// (variant, f, g) in the order of the table.
std::vector<std::tuple<std::string, std::string, std::string>> variants() {
  return {
#define FUSED_ACTS_NAMES(name, f, g) {#name, f<Math64>::kName, g<Math64>::kName},
      FUSED_ACTS_VARIANTS(FUSED_ACTS_NAMES)
#undef FUSED_ACTS_NAMES
  };
}

std::vector<std::tuple<std::string, std::string>> activations() {
  return {
#define FUSED_ACTS_NAMES(name, f, g) {#name, f<Math64>::kName},
      FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_NAMES)
#undef FUSED_ACTS_NAMES
  };
}

std::map<std::string, std::string> build_info() {
  return {
      {"torch_version", FUSED_ACTS_TORCH_VERSION},
      {"cuda_version", FUSED_ACTS_CUDA_VERSION},
      {"cuda_architectures", FUSED_ACTS_CUDA_ARCHITECTURES},
      {"compiler", __VERSION__},
      {"cpu_capability", cpu::isa_name()},
  };
}

DType dtype_named(const std::string& name) {
  if (name == "float64") return DType::kFloat64;
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw std::invalid_argument("dtype: expected float64, float32, float16 or bfloat16, got " + name);
}

// What a CUDA kernel would be launched with, on any machine. row_stride and offset, in elements,
// are those of the inputs: of gate and up, or of the packed tensor; offset counts from an address
// that is a multiple of 256 bytes. Outputs and grad_out are dense and start at such an address.
std::map<std::string, int64_t> launch_plan(const std::string& dtype, int64_t rows, int64_t cols,
                                           const std::string& layout,
                                           std::optional<int64_t> row_stride, int64_t offset,
                                           bool backward, int widest_access) {
  const bool two = layout == "separate", interleaved = layout == "interleaved";
  if (!two && !interleaved && layout != "gate_up" && layout != "up_gate")
    throw std::invalid_argument("layout: expected separate, gate_up, up_gate or interleaved, got " +
                                layout);
  if (rows < 1 || cols < 1)
    throw std::invalid_argument("rows, cols: expected at least 1, got " + std::to_string(rows) +
                                ", " + std::to_string(cols));
  GluArgs args{};
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
  flatten_if_dense(args);
  const cuda::LaunchPlan plan = cuda::make_plan(args, widest_access);
  return {{"grid", plan.grid},
          {"block", cuda::kBlock},
          {"bytes_per_access", plan.access_bytes},
          {"vectors_per_thread", plan.vectors}};
}

}  // namespace
}  // namespace fused_acts

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  m.def("variants", &fused_acts::variants);
  m.def("activations", &fused_acts::activations);
  m.def("build_info", &fused_acts::build_info);
  m.def("launch_plan", &fused_acts::launch_plan, py::arg("dtype"), py::arg("rows"), py::arg("cols"),
        py::kw_only(), py::arg("layout") = "separate", py::arg("row_stride") = py::none(),
        py::arg("offset") = 0, py::arg("backward") = false, py::arg("widest_access") = 16);
}
