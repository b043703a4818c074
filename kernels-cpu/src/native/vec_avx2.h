// Vec for AVX2 + FMA + F16C: 16 lanes in two registers. See vec.h for the meaning of each function.
//
// Two registers because the functions of vec_math.h are long chains of dependent instructions: one chain leaves most
// of the core idle, two side by side run in little more time. bf16 stores gain too: they fill a register.
#pragma once

#include <immintrin.h>

namespace aphrodite::APHRODITE_ISA {
namespace {

constexpr int kLanes = 16;

struct Vec {
  __m256 a, b;  // lanes 0 to 7, 8 to 15
};

inline Vec splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec operator/(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }

// minps and maxps return their second operand when either is NaN: x has to stand there.
inline Vec min_to(Vec x, Vec hi) { return {_mm256_min_ps(hi.a, x.a), _mm256_min_ps(hi.b, x.b)}; }
inline Vec max_to(Vec x, Vec lo) { return {_mm256_max_ps(lo.a, x.a), _mm256_max_ps(lo.b, x.b)}; }

inline Vec abs(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}

inline Vec round(Vec x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}

template <int k>
inline Vec pow2(Vec n) {
  // 2^23 + 127 + k + n holds the biased exponent in its lowest bits.
  const Vec biased = n + splat(8388608.0f + 127.0f + k);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased.a), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased.b), 23))};
}

inline Vec head(Vec x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xfffff000u)));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}

inline float sum(Vec x) {
  const __m256 pairs = _mm256_add_ps(x.a, x.b);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

inline __m128i load_halves(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256 widen_bf16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec load(const F16* p) { return {_mm256_cvtph_ps(load_halves(p)), _mm256_cvtph_ps(load_halves(p + 8))}; }
inline Vec load(const BF16* p) { return {widen_bf16(load_halves(p)), widen_bf16(load_halves(p + 8))}; }

inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}

inline void store(F16* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

// The bf16 pattern of each lane, in 32 bits.
inline __m256i round_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  // Adding half of the dropped unit, less one where the kept part is even, rounds to nearest even. It would carry
  // some NaNs into infinity, so these take the one quiet NaN that torch writes.
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(is_nan));
  return _mm256_srli_epi32(kept, 16);
}

inline void store(BF16* p, Vec x) {
  // packus works within 128-bit halves, giving a0-3 b0-3 a4-7 b4-7; the permute mends the order.
  const __m256i packed = _mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA
