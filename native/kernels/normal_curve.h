// The normal distribution for activations stored in bf16, whose values have eight bits: thirty-two quadratics that a
// vector permutation fetches, for AVX-512.
//
// Segment i is 4/15 wide around (i - 16) 4/15 and meets the curve in its ends and its middle. The outermost are half as
// wide and end at -4 and 4, beyond which the curve keeps its limit: exactly 0 below. Where it did not, GELU would grow with
// |u| where it should vanish, and a norm make a large number of what a channel that is never on leaves.
#pragma once
#include "isa.h"

#ifndef ISOPATCH_AVX2

namespace NS {

constexpr double CURVE_END = 4, SEGMENTS_PER_UNIT = 3.75;

struct Curve {
  alignas(64) float square[32] = {}, factor[32] = {}, constant[32] = {};
};

constexpr double exp_of(double x) {  // Taylor, after halving x to below 2^-10
  double sum = 1, term = 1;
  for (int i = 1; i < 12; ++i) sum += term *= x / 1024 / i;
  for (int i = 0; i < 10; ++i) sum *= sum;
  return sum;
}
constexpr double normal_density(double u) { return 0.3989422804014327 * exp_of(-u * u / 2); }
constexpr double normal_distribution(double u) {  // Marsaglia 2004
  double sum = u, term = u;
  for (int i = 3; i < 150; i += 2) sum += term *= u * u / i;
  return 0.5 + normal_density(u) * sum;
}
constexpr double gelu_slope(double u) { return normal_distribution(u) + u * normal_density(u); }

constexpr Curve curve_of(double (*f)(double)) {
  Curve curve;
  for (int i = 1; i < 32; ++i) {
    const double middle = (i - 16) / SEGMENTS_PER_UNIT, half = 0.5 / SEGMENTS_PER_UNIT;
    if (i == 1 || i == 31) {  // limit + square (u -+ 4)^2: in float exactly the limit at its end
      const double limit = i == 31, inner = f(i == 1 ? middle + half : middle - half);
      const double square = (inner - limit) / (half * half);
      curve.square[i] = (float)((double)(int64_t)(square * (1 << 27)) / (1 << 27));  // so that no sum below is rounded
      curve.factor[i] = (float)((i == 1 ? 2 : -2) * CURVE_END * curve.square[i]);
      curve.constant[i] = (float)(limit + CURVE_END * CURVE_END * curve.square[i]);
      continue;
    }
    const double before = f(middle - half), here = f(middle), after = f(middle + half);
    const double square = (before - 2 * here + after) / (2 * half * half), factor = (after - before) / (2 * half);
    curve.square[i] = (float)square;
    curve.factor[i] = (float)(factor - 2 * square * middle);
    curve.constant[i] = (float)(here - factor * middle + square * middle * middle);
  }
  return curve;
}

// Phi is off by 6.2e-5 at most, GELU by 1.3e-4 (at -4); the slope of GELU by 2.5e-4 on [-3.8, 3.8] and 5.3e-4 everywhere
// (at 4 it truly is 1.0005).
constexpr Curve PHI = curve_of(normal_distribution), SLOPE = curve_of(gelu_slope);

// Where a value on [-4, 4] lies: it, and the segment in the lowest five bits.
struct OnCurve {
  V value, segment;
  explicit OnCurve(V on) : value(on) {
    segment = fma(value, set1((float)SEGMENTS_PER_UNIT), set1(12582912.0f + 16));  // 1.5 2^23: rounds to whole numbers
  }
  V of(const Curve& curve) const {
    const V slanted = fma(one_of_32(curve.square, segment), value, one_of_32(curve.factor, segment));
    return fma(slanted, value, one_of_32(curve.constant, segment));
  }
};

// u, kept on [-4, 4]. The first takes NaN for 4, the second, in two instructions, leaves it.
static inline OnCurve on_curve(V u) { return OnCurve(shrunk_to(u, set1((float)CURVE_END))); }
static inline OnCurve on_curve_or_nan(V u) {
  return OnCurve(max(set1((float)-CURVE_END), min(set1((float)CURVE_END), u)));
}

}  // namespace NS

#endif
