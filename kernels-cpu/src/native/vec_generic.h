// Vec for any CPU: 4 lanes of the compiler's own vectors, which become SSE2, NEON or plain scalar code.
// See vec.h for the meaning of each function.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace aphrodite::APHRODITE_ISA {
namespace {

constexpr int kLanes = 4;

typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t Ints __attribute__((vector_size(16)));
typedef std::uint32_t Words __attribute__((vector_size(16)));
typedef std::uint16_t Halves __attribute__((vector_size(8)));

struct Vec {
  Floats v;
};

inline Floats as_floats(Words x) { return reinterpret_cast<Floats>(x); }
inline Words as_words(Floats x) { return reinterpret_cast<Words>(x); }
inline Words select(Ints mask, Words yes, Words no) {
  const Words m = reinterpret_cast<Words>(mask);
  return (yes & m) | (no & ~m);
}
inline Words words(std::uint32_t x) { return Words{x, x, x, x}; }

inline Vec splat(float x) { return {Floats{x, x, x, x}}; }
inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__aarch64__)
  return {reinterpret_cast<Floats>(vfmaq_f32(reinterpret_cast<float32x4_t>(c.v), reinterpret_cast<float32x4_t>(a.v),
                                             reinterpret_cast<float32x4_t>(b.v)))};
#else
  return {a.v * b.v + c.v};
#endif
}

// A comparison with NaN is false, which keeps x.
inline Vec min_to(Vec x, Vec hi) { return {as_floats(select(hi.v < x.v, as_words(hi.v), as_words(x.v)))}; }
inline Vec max_to(Vec x, Vec lo) { return {as_floats(select(lo.v > x.v, as_words(lo.v), as_words(x.v)))}; }

inline Vec abs(Vec x) { return {as_floats(as_words(x.v) & 0x7fffffffu)}; }

inline Vec round(Vec x) {
  // At 1.5 * 2^23 the unit in the last place is 1.
  const Vec shift = splat(12582912.0f);
  return (x + shift) - shift;
}

template <int k>
inline Vec pow2(Vec n) {
  // 2^23 + 127 + k + n holds the biased exponent in its lowest bits.
  return {as_floats(as_words((n + splat(8388608.0f + 127.0f + k)).v) << 23)};
}

inline Vec head(Vec x) { return {as_floats(as_words(x.v) & 0xfffff000u)}; }

inline float sum(Vec x) { return (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]); }

inline Words load_halves(const void* p) {
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  return __builtin_convertvector(h, Words);
}
inline void store_halves(void* p, Words x) {
  const Halves h = __builtin_convertvector(x, Halves);
  std::memcpy(p, &h, sizeof(h));
}

inline Vec load(const float* p) {
  Vec x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
inline Vec load(const BF16* p) { return {as_floats(load_halves(p) << 16)}; }

inline Vec load(const F16* p) {
#if defined(__aarch64__)
  float16x4_t h;
  std::memcpy(&h, p, sizeof(h));
  return {reinterpret_cast<Floats>(vcvt_f32_f16(h))};
#else
  // Source: F. Giesen, half_to_float_fast5: rebias the exponent, then mend infinities and subnormals. Subnormals are
  // made by a subtraction of normal numbers, so flush-to-zero modes do not touch them.
  const Words h = load_halves(p);
  const Words magnitude = (h & 0x7fffu) << 13;
  const Words exponent = magnitude & (0x7c00u << 13);
  const Words normal = magnitude + ((127u - 15u) << 23);
  const Words special = normal + ((128u - 16u) << 23);
  const Words subnormal = as_words(as_floats(magnitude + (113u << 23)) - as_floats(words(113u << 23)));
  Words x = select(exponent == words(0x7c00u << 13), special, normal);
  x = select(exponent == words(0), subnormal, x);
  return {as_floats(x | ((h & 0x8000u) << 16))};
#endif
}

inline void store(float* p, Vec x) { std::memcpy(p, &x, sizeof(x)); }
inline void store(BF16* p, Vec x) {
  const Words bits = as_words(x.v);
  // See vec_avx2.h for the rounding.
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  store_halves(p, select(x.v != x.v, words(0x7fc0u), rounded));
}

inline void store(F16* p, Vec x) {
#if defined(__aarch64__)
  const float16x4_t h = vcvt_f16_f32(reinterpret_cast<float32x4_t>(x.v));
  std::memcpy(p, &h, sizeof(h));
#else
  // Source: F. Giesen, float_to_half_fast3_rtne.
  const Words sign = as_words(x.v) & 0x80000000u;
  const Words f = as_words(x.v) ^ sign;
  const Ints signed_f = reinterpret_cast<Ints>(f);  // never negative, and signed compares are cheaper
  const Ints limit = reinterpret_cast<Ints>(words((127u + 16u) << 23));
  const Ints tiny = reinterpret_cast<Ints>(words(113u << 23));
  const Words magic = words(((127u - 15u) + (23u - 10u) + 1u) << 23);
  const Words subnormal = as_words(as_floats(f) + as_floats(magic)) - magic;
  const Words normal = (f + (((15u - 127u) << 23) + 0xfffu) + ((f >> 13) & 1u)) >> 13;
  const Words special = select(x.v != x.v, words(0x7e00u), words(0x7c00u));
  Words h = select(signed_f < tiny, subnormal, normal);
  h = select(signed_f >= limit, special, h);
  store_halves(p, h | (sign >> 16));
#endif
}

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA
