// Sixteen floats at a time: AVX-512 (F, BW, DQ, VL), with the bf16 conversion of AVX512_BF16 where it is compiled in.
#pragma once
#include <immintrin.h>

#include "bf16.h"

namespace NS {

constexpr int W = 16;  // floats in a vector
using V = __m512;

static inline V set1(float x) { return _mm512_set1_ps(x); }
static inline V zero() { return _mm512_setzero_ps(); }
static inline V load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
static inline V widen(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
static inline V load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }

// Rounds to nearest even; NaN stays NaN.
static inline __m256i narrow(V x) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}
static inline void store(bf16* p, V x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }
static inline V rounded(V x) { return widen(narrow(x)); }  // to what bf16 can hold

static inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
static inline V max(V a, V b) { return _mm512_max_ps(a, b); }  // b where either is NaN
static inline V min(V a, V b) { return _mm512_min_ps(a, b); }
static inline V abs(V a) { return _mm512_abs_ps(a); }
// x < 0 ? a : b
static inline V where_negative(V x, V a, V b) {
  return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, zero(), _CMP_LT_OQ), a);
}
// x > 0 ? a : 0
static inline V where_positive(V x, V a) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, zero(), _CMP_GT_OQ), a);
}
// x, no larger than `limit` > 0, with its sign; limit where x is NaN
static inline V shrunk_to(V x, V limit) { return _mm512_range_ps(x, limit, 2); }
// Entries of 32 floats: for each place the one that the lowest five bits of `index` name.
static inline V one_of_32(const float* entries, V index) {
  return _mm512_permutex2var_ps(_mm512_load_ps(entries), _mm512_castps_si512(index), _mm512_load_ps(entries + W));
}
// 1 / x to about 24 bits.
static inline V reciprocal(V x) {
  V guess = _mm512_rcp14_ps(x);
  return guess * fnma(x, guess, set1(2.0f));
}
static inline V round_nearest(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for a whole n
static inline V scale_by_power(V x, V n) { return _mm512_scalef_ps(x, n); }
static inline float total(V x) { return _mm512_reduce_add_ps(x); }
static inline float largest(V x) { return _mm512_reduce_max_ps(x); }

// rows[i][j] <-> rows[j][i], 16 x 16 entries of four bytes.
static inline __attribute__((always_inline)) void transpose(V* rows) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_castps_si512(rows[i]);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    rows[i + 8] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
  }
}

#ifdef __AVX512BF16__
// Two rows as pairs of bf16: entry i holds (even[i], odd[i]).
static inline V pairs(V even, V odd) {
  const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  const __m512i upper = _mm512_slli_epi32(_mm512_set_epi32(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16), 16);
  const __m512i lower = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_or_si512(upper, lower), apart));
}
#endif

}  // namespace NS
