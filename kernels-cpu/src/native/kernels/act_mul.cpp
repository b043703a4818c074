// act_mul: out = act(gate) * up, where x holds [gate | up] side by side.
// Sources: silu, gelu: Shazeer 2020 (GLU variants); gelu_tanh: Hendrycks and Gimpel 2016; swiglu_oai: the gpt-oss
// model code. Everything in float32, one rounding at the store.
#include "../kernels.h"
#include "../parallel.h"
#include "../vec_math.h"

namespace aphrodite::APHRODITE_ISA {
namespace {

// One thread takes 0.39 (silu, f32) to 0.97 (gelu_erf, bf16) ns an element with AVX2. Two threads against one (see
// parallel.h), silu, f32: 8192 elements take 2.7 against 3.5 us in a row of calls, 4.8 against 4.5 after idling;
// 16384 elements 4.2 against 6.6 and 8.2 against 8.3.
constexpr std::int64_t kParallelWork = 16384;

// Each limits the gate from below to where act(gate) has become 0 in float32, so that -inf gives 0 and not -inf * 0.

struct Silu {
  static Vec apply(Vec gate, Vec up) {
    const Vec g = max_to(gate, splat(-110.0f));
    return g * sigmoid(g) * up;
  }
};

struct GeluErf {
  static Vec apply(Vec gate, Vec up) { return mul_normal_cdf(gate) * up; }
};

struct GeluTanh {
  // (1 + tanh(u)) / 2 = sigmoid(2u), which also keeps the digits that 1 + tanh loses for negative u.
  static Vec apply(Vec gate, Vec up) {
    const Vec g = max_to(gate, splat(-10.9f));
    const Vec cubic = fma(g * g, splat(0.044715f), splat(1.0f));
    return g * sigmoid(g * cubic * splat(1.5957691216f)) * up;  // 2 * sqrt(2 / pi)
  }
};

struct SwigluOai {
  static Vec apply(Vec gate, Vec up) {
    const Vec g = max_to(min_to(gate, splat(7.0f)), splat(-64.0f));
    const Vec u = max_to(min_to(up, splat(7.0f)), splat(-7.0f));
    return g * sigmoid(g * splat(1.702f)) * (u + splat(1.0f));
  }
};

template <class Act, class T>
void act_row(T* out, const T* gate, const T* up, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) store(out + i, Act::apply(load(gate + i), load(up + i)));
  if (i < end) {
    const std::int64_t n = end - i;
    store_first(out + i, Act::apply(load_first(gate + i, n), load_first(up + i, n)), n);
  }
}

template <class Act, class T>
void run(const ActMul& a) {
  T* const out = static_cast<T*>(a.out);
  const T* const x = static_cast<const T*>(a.x);
  // Elements are independent, so a few long rows (decode) are cut into columns as well.
  const int threads = num_threads(a.rows * a.width, kParallelWork);
  const std::int64_t parts = threads > 1 && a.rows < 4 * threads ? threads : 1;
  const std::int64_t step = (a.width / parts + 63) / 64 * 64;  // whole cache lines
  parallel_for(a.rows * parts, threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t item = first; item < last; ++item) {
      const std::int64_t t = item / parts, part = item % parts;
      const T* const row = x + t * a.x_stride;
      const std::int64_t begin = part * step < a.width ? part * step : a.width;
      const std::int64_t end = part + 1 < parts && begin + step < a.width ? begin + step : a.width;
      act_row<Act>(out + t * a.out_stride, row, row + a.width, begin, end);
    }
  });
}

template <class Act>
void run_dtype(const ActMul& a) {
  switch (a.dtype) {
    case DType::f32: return run<Act, float>(a);
    case DType::f16: return run<Act, F16>(a);
    case DType::bf16: return run<Act, BF16>(a);
  }
}

}  // namespace

void act_mul(const ActMul& a) {
  switch (a.kind) {
    case ActKind::silu: return run_dtype<Silu>(a);
    case ActKind::gelu_erf: return run_dtype<GeluErf>(a);
    case ActKind::gelu_tanh: return run_dtype<GeluTanh>(a);
    case ActKind::swiglu_oai: return run_dtype<SwigluOai>(a);
  }
}

}  // namespace aphrodite::APHRODITE_ISA
