// Chooses the instruction set: the first of an ordered list whose loops are compiled in and run
// here. The last always does.
#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

struct Candidate {
  Isa isa;
  const char* name;
  bool (*runs_here)();
};

#ifdef FUSED_ACTS_HAS_AVX2
// And F16C, which is older than AVX2 but has no name for clang.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

#ifdef FUSED_ACTS_HAS_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

constexpr Candidate kCandidates[] = {
#ifdef FUSED_ACTS_HAS_AVX512_BF16
    {Isa::kAvx512Bf16, "avx512_bf16", has_avx512_bf16},
#endif
#ifdef FUSED_ACTS_HAS_AVX512_WITHOUT_BF16
    {Isa::kAvx512, "avx512", has_avx512},
#endif
#ifdef FUSED_ACTS_HAS_AVX2
    {Isa::kAvx2, "avx2", has_avx2},
#endif
#ifdef FUSED_ACTS_HAS_NEON
    {Isa::kNeon, "neon", [] { return true; }},
#endif
    {Isa::kBaseline, "baseline", [] { return true; }},
};

const Candidate& find() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const Candidate* best = kCandidates;
  while (!best->runs_here()) ++best;
  // Lower, to run the loops that are there for other processors.
  const char* wanted = std::getenv("FUSED_ACTS_CPU_CAPABILITY");
  for (const Candidate* c = best; wanted && c != std::end(kCandidates); ++c)
    if (std::strcmp(wanted, c->name) == 0) return *c;
  return *best;
}

const Candidate& chosen() {
  static const Candidate& candidate = find();
  return candidate;
}

}  // namespace

Isa isa() { return chosen().isa; }
const char* isa_name() { return chosen().name; }

const Loops& loops_for(DType dtype) {
#ifdef FUSED_ACTS_HAS_AVX2_FLOAT64
  if (dtype == DType::kFloat64 && isa() >= Isa::kAvx2) return kAvx2Float64;
#endif
  if (dtype == DType::kFloat64) return kScalarFloat64;
  const auto choose = [dtype](const Loops& f32, const Loops& f16, const Loops& bf16) -> auto& {
    return dtype == DType::kFloat32 ? f32 : dtype == DType::kFloat16 ? f16 : bf16;
  };
  switch (isa()) {
#ifdef FUSED_ACTS_HAS_AVX512_BF16
    case Isa::kAvx512Bf16:
      return choose(kAvx512Float32, kAvx512Float16, kAvx512Bf16BFloat16);
#endif
#ifdef FUSED_ACTS_HAS_AVX512_WITHOUT_BF16
    case Isa::kAvx512:
      return choose(kAvx512Float32, kAvx512Float16, kAvx512BFloat16);
#endif
#ifdef FUSED_ACTS_HAS_AVX2
    case Isa::kAvx2:
      return choose(kAvx2Float32, kAvx2Float16, kAvx2BFloat16);
#endif
#ifdef FUSED_ACTS_HAS_NEON
    case Isa::kNeon:
      return choose(kNeonFloat32, kNeonFloat16, kNeonBFloat16);
#endif
    default:
      return choose(kScalarFloat32, kScalarFloat16, kScalarBFloat16);
  }
}

}  // namespace fused_acts::cpu
