// Chooses the instruction set: the first of an ordered list whose loops are compiled in and run
// here. The last always does.
#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

namespace fused_acts::cpu {
namespace {

struct Candidate {
  Isa isa;
  const char* name;
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

#ifdef FUSED_ACTS_HAS_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

constexpr Candidate kCandidates[] = {
#ifdef FUSED_ACTS_HAS_AVX512
    {Isa::kAvx512Bf16, "avx512_bf16", has_avx512_bf16},
    {Isa::kAvx512, "avx512", has_avx512},
#endif
#if defined(__x86_64__)
    {Isa::kAvx2, "avx2", has_avx2},
#endif
    {Isa::kBaseline, "baseline", [] { return true; }},
};

const Candidate& find() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  const Candidate* best = kCandidates;
  while (!best->runs_here()) ++best;
  // Lower, to run the loops that are there for other processors. The copy of a cloned loop stays
  // the loader's choice.
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

}  // namespace fused_acts::cpu
