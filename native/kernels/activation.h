// Activations: exact GELU and ReLU, values and slopes.
//
// GELU(u) = u Phi(u); its slope is Phi(u) + u phi(u) (Hendrycks and Gimpel 2016). Phi comes from the complementary error
// function of Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7, which needs the same exp(-u^2 / 2) as phi.
#pragma once
#include "isa.h"
#include "normal_curve.h"

namespace NS {

enum class Act { gelu = 0, relu = 1 };

// 2^y for y <= 0; 0 from -126 on. NaN stays NaN. Relative error below 2e-7, or 4e-6 for what is stored in bf16 (fits of
// least largest error).
template <class T>
static inline V power_of_two(V y) {
  y = max(set1(-126.0f), y);
  V n = round_nearest(y), r = y - n;  // 2^r for r in [-1/2, 1/2]
  V p;
  if (sizeof(T) == 2) {
    p = set1(9.58281754e-03f);
    p = fma(p, r, set1(5.59063707e-02f));
    p = fma(p, r, set1(2.40240989e-01f));
    p = fma(p, r, set1(6.93124200e-01f));
    return scale_by_power(fma(p, r, set1(1.0f)), n);
  }
  p = set1(1.5353362e-4f);
  p = fma(p, r, set1(1.3398874e-3f));
  p = fma(p, r, set1(9.6184373e-3f));
  p = fma(p, r, set1(5.5503324e-2f));
  p = fma(p, r, set1(2.4022648e-1f));
  p = fma(p, r, set1(6.9314718e-1f));
  p = fma(p, r, set1(1.0f));
  return scale_by_power(p, n);
}

// exp(-x) for x >= 0.
static inline V exp_minus(V x) { return power_of_two<float>(x * set1(-1.44269504f)); }

// Phi(u) and e = exp(-u^2 / 2).
static inline V normal_cdf(V u, V& e) {
  V size = min(set1(1e18f), abs(u));  // this order keeps NaN; an infinite u gets a finite size
  e = exp_minus(u * u * set1(0.5f));
  V t = reciprocal(fma(size, set1(0.3275911f * 0.70710678f), set1(1.0f)));
  V p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  V tail = p * t * e * set1(0.5f);  // Phi(-|u|)
  return where_negative(u, tail, set1(1.0f) - tail);
}

// T: what the activation is stored as.
template <Act A, class T>
static inline V activate(V u) {
  if (A == Act::relu) return max(zero(), u);  // this order keeps NaN
#ifndef ISOPATCH_AVX2
  if (sizeof(T) == 2) return u * on_curve(u).of(PHI);
#endif
  V e;
  return u * normal_cdf(u, e);
}

// Returns the value; writes the slope.
template <Act A, class T>
static inline V activate(V u, V& slope) {
  if (A == Act::relu) {
    slope = where_positive(u, set1(1.0f));
    return max(zero(), u);
  }
#ifndef ISOPATCH_AVX2
  if (sizeof(T) == 2) {
    const OnCurve at = on_curve_or_nan(u);
    slope = at.of(SLOPE);
    return u * at.of(PHI);
  }
#endif
  V e, cdf = normal_cdf(u, e);
  slope = fma(u * set1(0.39894228f), e, cdf);
  return u * cdf;
}

}  // namespace NS
