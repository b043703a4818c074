#include "dispatch.h"

#include <stdexcept>

namespace aphrodite {

// Declares one instruction set's kernels and gathers them into isa::table.
#define APHRODITE_DECLARE(name, Args) void name(const Args&);
#define APHRODITE_ENTRY(name, Args) name,
#define APHRODITE_TABLE(isa)                                      \
  namespace isa {                                                 \
  APHRODITE_KERNELS(APHRODITE_DECLARE)                            \
  constexpr Kernels table = {APHRODITE_KERNELS(APHRODITE_ENTRY)}; \
  }

APHRODITE_TABLE(generic)
#ifdef APHRODITE_HAVE_AVX2
APHRODITE_TABLE(avx2)
#endif

namespace {

// From the least to the best. __builtin_cpu_supports asks cpuid and, through xgetbv, whether the system saves
// the wide registers.
const Isa isas[] = {
    {"generic", "nothing", [] { return true; }, 6, generic::table},
#ifdef APHRODITE_HAVE_AVX2
    {"avx2", "AVX2, FMA and F16C",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
     },
     1, avx2::table},
#endif
};

}  // namespace

const Isa& choose_isa(const char* wanted) {
  const Isa* best = nullptr;
  const Isa* named = nullptr;
  std::string legal;
  const std::string name = wanted ? wanted : "";
  for (const Isa& isa : isas) {
    if (name == isa.name) named = &isa;
    if (!isa.supported()) continue;
    best = &isa;
    legal += (legal.empty() ? "" : ", ") + std::string(isa.name);
  }
  if (name.empty()) return *best;
  if (!named) throw std::invalid_argument("APHRODITE_CPU_ISA must be one of " + legal + ", got '" + name + "'");
  if (!named->supported())
    throw std::invalid_argument("APHRODITE_CPU_ISA is '" + name + "', which needs " + named->needs +
                                "; this CPU can run " + legal);
  return *named;
}

}  // namespace aphrodite
