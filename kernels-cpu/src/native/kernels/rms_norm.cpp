// rms_norm: out = x * (mean(x^2) + eps)^-1/2 * (w + offset), row by row.
// Source: Zhang and Sennrich 2019, equation 4. Everything in float32, one rounding at the store.
#include "../kernels.h"
#include "../parallel.h"
#include "../vec.h"

namespace aphrodite::APHRODITE_ISA {
namespace {

// One thread takes 0.12 (f32) to 0.27 (bf16) ns an element with AVX2. Two threads against one (see parallel.h), f32:
// 32768 elements take 2.7 against 3.6 us in a row of calls, 8.6 against 5.3 after idling; 65536 elements 4.3
// against 6.9 and 6.7 against 10.8.
constexpr std::int64_t kParallelWork = 65536;

template <class T>
float sum_squares(const T* x, std::int64_t width) {
  // Four chains hide the latency of fma and keep partial sums short, which keeps the rounding error small.
  Vec a = splat(0.0f), b = a, c = a, d = a;
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    const Vec xa = load(x + i), xb = load(x + i + kLanes);
    const Vec xc = load(x + i + 2 * kLanes), xd = load(x + i + 3 * kLanes);
    a = fma(xa, xa, a);
    b = fma(xb, xb, b);
    c = fma(xc, xc, c);
    d = fma(xd, xd, d);
  }
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i);
    a = fma(v, v, a);
  }
  if (i < width) {
    const Vec v = load_first(x + i, width - i);
    b = fma(v, v, b);
  }
  return sum((a + b) + (c + d));
}

template <class T>
void norm_row(T* out, const T* x, const T* w, std::int64_t width, float eps, float offset) {
  const float mean = sum_squares(x, width) / static_cast<float>(width);
  const Vec scale = splat(1.0f / __builtin_sqrtf(mean + eps)), shift = splat(offset);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load(x + i) * scale * (load(w + i) + shift));
  if (i < width) {
    const std::int64_t n = width - i;
    store_first(out + i, load_first(x + i, n) * scale * (load_first(w + i, n) + shift), n);
  }
}

template <class T>
void run(const RmsNorm& a) {
  T* const out = static_cast<T*>(a.out);
  const T* const x = static_cast<const T*>(a.x);
  const T* const w = static_cast<const T*>(a.w);
  parallel_for(a.rows, num_threads(a.rows * a.width, kParallelWork), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      norm_row(out + t * a.out_stride, x + t * a.x_stride, w, a.width, a.eps, a.offset);
  });
}

}  // namespace

void rms_norm(const RmsNorm& a) {
  switch (a.dtype) {
    case DType::f32: return run<float>(a);
    case DType::f16: return run<F16>(a);
    case DType::bf16: return run<BF16>(a);
  }
}

}  // namespace aphrodite::APHRODITE_ISA
