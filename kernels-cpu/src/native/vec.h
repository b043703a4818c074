// A few float32 lanes, so that each kernel is written once for every instruction set.
//
// A kernel file is compiled once per instruction set with APHRODITE_ISA naming the namespace it lives in.
// DANGER: whatever such a file defines or instantiates inline outside that namespace (std::min, std::vector, ...)
// may be merged by the linker with the copy of another instruction set and crash an older CPU. So kernel files
// include only this, kernels.h, parallel.h and C headers, and everything here is in an unnamed namespace.
//
// vec_<isa>.h supplies:
//   Vec, kLanes; splat; + - * / of Vec
//   fma(a, b, c)     a * b + c, one rounding where the hardware has it
//   min_to(x, hi), max_to(x, lo)   x limited; NaN stays NaN
//   abs(x)
//   round(x)         to the nearest integer, ties to even, for |x| < 2^22
//   pow2<k>(n)       2^(n + k) for integral n, with n + k in [-126, 127]; anything for NaN
//   head(x)          x cut to 12 bits of mantissa, so that head(x)^2 is exact
//   sum(x)           of the lanes, in a fixed order
//   load, store      float, F16, BF16; any alignment; stores round to nearest even, NaN stays NaN
#pragma once

#include <cstdint>
#include <cstring>

namespace aphrodite::APHRODITE_ISA {
namespace {

// Storage types. Only load and store look inside.
struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vec_avx2.h"
#else
#include "vec_generic.h"
#endif

namespace aphrodite::APHRODITE_ISA {
namespace {

// The first n < kLanes lanes; the others read as 0 and are not stored. Tails go through the same lanes as full
// vectors, so an element's bits do not depend on where in the row it stands.
template <class T>
inline Vec load_first(const T* p, std::int64_t n) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store_first(T* p, Vec x, std::int64_t n) {
  T lanes[kLanes];
  store(lanes, x);
  std::memcpy(p, lanes, static_cast<std::size_t>(n) * sizeof(T));
}

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA
