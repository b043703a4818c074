// Which instruction set runs: the best that this CPU has, or the one that APHRODITE_CPU_ISA names.
#pragma once

#include <string>

#include "kernels.h"

namespace aphrodite {

struct Isa {
  const char* name;
  const char* needs;  // for messages
  bool (*supported)();
  int slowness;  // how many times longer than AVX2 its kernels take, about; for estimates only
  Kernels kernels;
};

// `wanted` is the value of APHRODITE_CPU_ISA; null or empty means the best.
// Throws std::invalid_argument naming the value and what is legal on this machine.
const Isa& choose_isa(const char* wanted);

}  // namespace aphrodite
