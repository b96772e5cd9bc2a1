// Activations: exact GELU and ReLU, values and slopes.
//
// GELU(u) = u Phi(u); its slope is Phi(u) + u phi(u) (Hendrycks and Gimpel 2016). Phi comes from the complementary error
// function of Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7, which needs the same exp(-u^2 / 2) as phi.
#pragma once
#include "isa.h"

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

// The same for activations stored in bf16, whose values have eight bits: 1/2 plus an odd polynomial on [-4, 4], clamped
// there. Both are fits of least largest error among those that end in exactly 0 and 1: where they do not, GELU grows with
// |u| where it should vanish, and a norm makes a large number of what a channel that is never on leaves. Phi is off by
// 3.3e-5 at most, GELU by 1.3e-4; the slope by 3.1e-4 on [-3.5, 3.5] and 5.1e-4 everywhere (at 4, where it truly is 1.0005).
static inline V clamped(V u) { return max(set1(-4.0f), min(set1(4.0f), u)); }  // this order keeps NaN

static inline V rough_cdf(V u) {
  const V k = clamped(u), z = k * k;
  V p = set1(-1.30364786e-09f);
  p = fma(p, z, set1(1.05642322e-07f));
  p = fma(p, z, set1(-3.73085209e-06f));
  p = fma(p, z, set1(7.63679127e-05f));
  p = fma(p, z, set1(-1.02175621e-03f));
  p = fma(p, z, set1(9.58256051e-03f));
  p = fma(p, z, set1(-6.60644993e-02f));
  p = fma(p, z, set1(3.98805499e-01f));
  return fma(p, k, set1(0.5f));
}

static inline V rough_slope(V u) {
  const V k = clamped(u), z = k * k;
  V p = set1(-1.73469719e-08f);
  p = fma(p, z, set1(1.26641123e-06f));
  p = fma(p, z, set1(-3.96494979e-05f));
  p = fma(p, z, set1(7.01287412e-04f));
  p = fma(p, z, set1(-7.77054019e-03f));
  p = fma(p, z, set1(5.61713465e-02f));
  p = fma(p, z, set1(-2.62371987e-01f));
  p = fma(p, z, set1(7.96846867e-01f));
  return fma(p, k, set1(0.5f));
}

// T: what the activation is stored as.
template <Act A, class T>
static inline V activate(V u) {
  if (A == Act::relu) return max(zero(), u);  // this order keeps NaN
  if (sizeof(T) == 2) return u * rough_cdf(u);
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
  if (sizeof(T) == 2) {
    slope = rough_slope(u);
    return u * rough_cdf(u);
  }
  V e, cdf = normal_cdf(u, e);
  slope = fma(u * set1(0.39894228f), e, cdf);
  return u * cdf;
}

}  // namespace NS
