// Eight floats at a time: AVX2 and FMA.
#pragma once
#include <immintrin.h>

#include "bf16.h"

namespace NS {

constexpr int W = 8;  // floats in a vector
using V = __m256;

static inline V set1(float x) { return _mm256_set1_ps(x); }
static inline V zero() { return _mm256_setzero_ps(); }
static inline V load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, V x) { _mm256_storeu_ps(p, x); }
static inline V load(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}

// Rounds to nearest even; NaN stays NaN. The upper halves of the result's entries are zero.
static inline __m256i narrow(V x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(nan));
  return _mm256_srli_epi32(rounded, 16);
}
static inline void store(bf16* p, V x) {
  __m256i half = narrow(x), packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
static inline V rounded(V x) { return _mm256_castsi256_ps(_mm256_slli_epi32(narrow(x), 16)); }  // to what bf16 can hold

static inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
static inline V max(V a, V b) { return _mm256_max_ps(a, b); }  // b where either is NaN
static inline V min(V a, V b) { return _mm256_min_ps(a, b); }
static inline V abs(V a) { return _mm256_andnot_ps(set1(-0.0f), a); }
// x < 0 ? a : b
static inline V where_negative(V x, V a, V b) { return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, zero(), _CMP_LT_OQ)); }
// x > 0 ? a : 0
static inline V where_positive(V x, V a) { return _mm256_and_ps(a, _mm256_cmp_ps(x, zero(), _CMP_GT_OQ)); }
static inline V reciprocal(V x) { return _mm256_div_ps(set1(1.0f), x); }
static inline V round_nearest(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for a whole n between -126 and 127
static inline V scale_by_power(V x, V n) {
  __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return x * _mm256_castsi256_ps(exponent);
}
static inline float total(V x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float largest(V x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// rows[i][j] <-> rows[j][i], 8 x 8 entries of four bytes.
static inline void transpose(V* rows) {
  V a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

}  // namespace NS
