// Where units are found by their index, and the operator that adds one.
#include "ops/units.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>
#include <string>

#include "kernels/unit_table.h"
#include "ops/library.h"
#include "ops/tensors.h"

namespace fused_acts {
namespace {

constexpr int64_t kRows = static_cast<int64_t>(Variant::kCount);

constexpr UnitCode kTable[] = {
#define FUSED_ACTS_CODE(name, ...) unit_code(Variant::name),
    FUSED_ACTS_VARIANTS(FUSED_ACTS_CODE) FUSED_ACTS_ACTIVATIONS(FUSED_ACTS_CODE)
#undef FUSED_ACTS_CODE
};

// A unit of one's own. There are few, and they stay: calls in any thread go through them as they
// find them.
struct OwnUnit {
  int64_t index;
  const UnitCode* code;
  const OwnUnit* next;
};
std::atomic<const OwnUnit*> own_units;

const UnitCode* find_own(int64_t index) {
  for (const OwnUnit* unit = own_units.load(std::memory_order_acquire); unit; unit = unit->next)
    if (unit->index == index) return unit->code;
  return nullptr;
}

// The code of a library that stays loaded, and shares no symbol with others.
const UnitCode* code_in(const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const entry = handle ? dlsym(handle, "fused_acts_unit") : nullptr;
  if (entry) return reinterpret_cast<const UnitCode* (*)()>(entry)();
  const char* const message = dlerror();
  fail<std::runtime_error>("library: expected that of a unit, got ", library, ": ",
                           message ? message : "it does not load");
}

void define_unit(int64_t variant, const std::string& library) {
  if (variant < kRows)
    fail("variant: expected an index of at least ", kRows, ", behind the tables, got ", variant);
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (find_own(variant)) return;
  const OwnUnit* const others = own_units.load(std::memory_order_relaxed);
  own_units.store(new OwnUnit{variant, code_in(library), others}, std::memory_order_release);
}

}  // namespace

const UnitCode& unit_at(int64_t index) {
  if (index >= 0 && index < kRows) return kTable[index];
  if (const UnitCode* own = find_own(index)) return *own;
  fail("variant: expected an index below ", kRows,
       ", or that of a unit that fused_acts.define made in this process, got ", index,
       ": define it before a program that was saved with it is loaded");
}

FUSED_ACTS_DEFINE(m) { m.def("define_unit(int variant, str library) -> ()"); }

FUSED_ACTS_IMPLEMENT(CompositeExplicitAutograd, m) {
  m.impl("define_unit", TORCH_BOX(&define_unit));
}

}  // namespace fused_acts
