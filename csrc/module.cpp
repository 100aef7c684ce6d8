// The Python module fused_acts._C: facts about the build and the table of variants. Importing it
// registers the operators of library.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "glu.h"

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

std::map<std::string, std::string> build_info() {
  return {
      {"torch_version", FUSED_ACTS_TORCH_VERSION},
      {"cuda_version", FUSED_ACTS_CUDA_VERSION},
      {"cuda_architectures", FUSED_ACTS_CUDA_ARCHITECTURES},
      {"compiler", __VERSION__},
      {"cpu_capability", cpu::capability()},
  };
}

}  // namespace
}  // namespace fused_acts

PYBIND11_MODULE(_C, m) {
  m.def("variants", &fused_acts::variants);
  m.def("build_info", &fused_acts::build_info);
}
