// Transcendental functions on Vec, in the forms that activations and attention need.
//
// All keep NaN, and take infinities unless a limit is stated; near the bottom of the range they underflow gradually.
// Polynomials are minimax fits (Lawson's method, 40-digit reference) made for this file.
#pragma once

#include "vec.h"

namespace aphrodite::APHRODITE_ISA {
namespace {

// e^-y = 2^n * exp_minus(r), for |y| <= 128. Callers apply 2^n themselves, since it alone may be no float.
struct Reduced {
  Vec r, n;
};

inline Reduced reduce(Vec y) {
  const Vec n = round(y * splat(-1.44269504f));
  // ln 2 in two parts; the first has 9 bits, so that n times it is exact.
  return {fma(n, splat(-2.12194440e-4f), fma(n, splat(0.693359375f), y)), n};
}

// (e^-r - 1) / r for |r| <= ln(2) / 2.
inline Vec exp_slope(Vec r) {
  Vec p = splat(0.001390153425745666f);
  p = fma(p, r, splat(-0.008363739587366581f));
  p = fma(p, r, splat(0.04166686162352562f));
  p = fma(p, r, splat(-0.16666573286056519f));
  p = fma(p, r, splat(0.5f));
  return fma(p, r, splat(-1.0f));
}

// e^-r for |r| <= ln(2) / 2, relative error 1e-8 plus rounding.
inline Vec exp_minus(Vec r) { return fma(exp_slope(r), r, splat(1.0f)); }

// e^x for x <= 0; 0 from -104 on.
inline Vec exp_of_negative(Vec x) {
  // Scaled by 2^64, so that 2^n is a float down to where the result is 0.
  const Reduced e = reduce(min_to(splat(0.0f) - x, splat(120.0f)));
  return exp_minus(e.r) * pow2<64>(e.n) * splat(0x1p-64f);
}

// tanh x = (1 - e^-2x) / (1 + e^-2x), from e^-2x - 1, which keeps the digits of small x.
inline Vec tanh(Vec x) {
  const Reduced e = reduce(min_to(max_to(x, splat(-10.0f)), splat(10.0f)) * splat(2.0f));
  const Vec power = pow2<0>(e.n);
  const Vec less_one = fma(power, exp_slope(e.r) * e.r, power - splat(1.0f));
  return (splat(0.0f) - less_one) / (less_one + splat(2.0f));
}

// 1 / (1 + e^-z) for z >= -110: callers limit z, as the result is 0 in float32 from -104 on. Below -87 it is
// subnormal and loses digits.
inline Vec sigmoid(Vec z) {
  // Both sides of the fraction are scaled by 2^-32, so that e^-z stays finite until the result is no float. Above 60
  // the result is 1.
  const Reduced e = reduce(min_to(z, splat(60.0f)));
  const Vec scaled_exp = exp_minus(e.r) * pow2<-32>(e.n);
  return splat(1.0f) / (scaled_exp + splat(0x1p-32f)) * splat(0x1p-32f);
}

// x * Phi(x), Phi the normal distribution function, (1 + erf(x / sqrt 2)) / 2.
inline Vec mul_normal_cdf(Vec x) {
  // With a = |x|, t = 1 / (1 + 0.3 a):  Phi(-a) = exp(-a^2 / 2) * t * P(t), relative error 4e-9 for a < 15, and
  // from there on a * Phi(-a) is 0 in float32.
  const Vec a = min_to(abs(x), splat(14.8f));
  const Vec t = splat(1.0f) / fma(a, splat(0.3f), splat(1.0f));
  Vec p = splat(-0.0206279623f);
  p = fma(p, t, splat(0.112460869f));
  p = fma(p, t, splat(-0.228275226f));
  p = fma(p, t, splat(0.191870042f));
  p = fma(p, t, splat(-0.0794976867f));
  p = fma(p, t, splat(0.0961984923f));
  p = fma(p, t, splat(0.078374548f));
  p = fma(p, t, splat(0.110238825f));
  p = fma(p, t, splat(0.119571383f));
  p = fma(p, t, splat(0.119686713f));
  // exp magnifies the rounding of its argument, so a^2 is given in two parts, the first exact.
  const Vec h = head(a);
  const Reduced e = reduce(h * h * splat(0.5f));
  const Vec mantissa = exp_minus(fma((a - h) * (a + h), splat(0.5f), e.r));
  // The exponent goes down to -158, hence in two steps, the last of which rounds.
  const Vec tail = a * (t * p * mantissa * pow2<40>(e.n)) * splat(0x1p-40f);
  // x >= 0: x * (1 - Phi(-x)); x < 0: x * Phi(x).
  return max_to(x, splat(0.0f)) - tail;
}

}  // namespace
}  // namespace aphrodite::APHRODITE_ISA
