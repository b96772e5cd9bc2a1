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

// The same for activations stored in bf16, whose values have eight bits: Phi as 1/2 plus an odd polynomial on [-4, 4], off
// by 5e-5 at most, the slope likewise on [-4.5, 4.5], off by 3e-4 (fits of least largest error).
static inline V rough_cdf(V u) {
  const V k = max(set1(-4.0f), min(set1(4.0f), u)), z = k * k;  // this order keeps NaN
  V p = set1(-1.5807845e-9f);
  p = fma(p, z, set1(1.21711011e-7f));
  p = fma(p, z, set1(-4.10086386e-6f));
  p = fma(p, z, set1(8.06673634e-5f));
  p = fma(p, z, set1(-1.04820414e-3f));
  p = fma(p, z, set1(9.66487359e-3f));
  p = fma(p, z, set1(-6.61753789e-2f));
  p = fma(p, z, set1(3.98847520e-1f));
  return fma(p, k, set1(0.5f));
}

static inline V rough_slope(V u) {
  const V k = max(set1(-4.5f), min(set1(4.5f), u)), z = k * k;
  V p = set1(4.22019891e-10f);
  p = fma(p, z, set1(-4.30209681e-8f));
  p = fma(p, z, set1(1.89721311e-6f));
  p = fma(p, z, set1(-4.76684399e-5f));
  p = fma(p, z, set1(7.57411064e-4f));
  p = fma(p, z, set1(-7.98310805e-3f));
  p = fma(p, z, set1(5.65698706e-2f));
  p = fma(p, z, set1(-2.62672931e-1f));
  p = fma(p, z, set1(7.96904087e-1f));
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
