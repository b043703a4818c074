// Threads for one call. Compiled into each instruction set's kernels, hence the unnamed namespace.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace aphrodite::APHRODITE_ISA {
namespace {

// Threads for `work` elements of a kernel that gains from more than one thread only from `enough` elements on.
// A call takes one thread or all of them: libgomp ends the threads that a smaller team leaves over, and starting
// them again costs more than they save.
//
// Opening and closing a region of 2 threads cost 1 us right after another region and 2 to 5 us after 2 ms of
// idleness (2 cores of an AMD EPYC, Zen 4; libgomp of gcc 12; minimum of 60 runs), so `enough` stands for about
// 8 us of one thread's AVX2 work. Not measured on wide machines, whose regions cost more.
inline int num_threads(std::int64_t work, std::int64_t enough) {
#ifdef _OPENMP
  if (work >= enough && !omp_in_parallel()) return omp_get_max_threads();
#else
  (void)work;
  (void)enough;
#endif
  return 1;
}

// Calls body(begin, end) over [0, n) in `threads` contiguous parts. The body must compute each item in the same
// way whatever part it falls into: that is what keeps the bits independent of the number of threads.
template <class Body>
inline void parallel_for(std::int64_t n, int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && n > 1) {
#pragma omp parallel num_threads(threads)
    {
      // The team may be smaller than asked for.
      const std::int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
      body(n * me / team, n * (me + 1) / team);
    }
    return;
  }
#else
  (void)threads;
#endif
  body(0, n);
}

// Calls body(i) for each i of [0, n), each on the thread that is free next: for items that differ in their work.
template <class Body>
inline void parallel_each(std::int64_t n, int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && n > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
#else
  (void)threads;
#endif
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA
