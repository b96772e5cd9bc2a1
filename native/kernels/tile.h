// The heart of every matrix product: acc (rows x PANEL) = sum over steps of A(row, step) B(step, :).
//
// A step is four bytes of a row of A: one float, or two bf16 side by side. B holds for a step PANEL entries of four bytes:
// PANEL floats, or PANEL pairs of bf16 (elements 2 s and 2 s + 1 of the inner dimension, together). So one loop serves both.
#pragma once
#include "isa.h"

namespace NS {

#ifdef ISOPATCH_AVX2
constexpr int PANEL = 16;
#else
constexpr int PANEL = 64;
#endif
constexpr int VECTORS = PANEL / W;

#ifdef ISOPATCH_DOT
using Operand = bf16;  // what bf16 activations are multiplied in
#else
using Operand = float;
#endif

template <class G>
struct Product;

template <>
struct Product<float> {
  static constexpr int per_step = 1;
  static inline V step(V acc, const char* a, V b) { return fma(set1(*(const float*)a), b, acc); }
};

#ifdef ISOPATCH_DOT
template <>
struct Product<bf16> {
  static constexpr int per_step = 2;
  static inline V step(V acc, const char* a, V b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(*(const int*)a), (__m512bh)b);
  }
};
#endif

// The first R rows and N vectors of a panel. a: first row, a_stride bytes from row to row. b: first step, b_stride bytes
// from step to step. acc: rows of PANEL floats.
template <class G, int R, int N>
static void tile_of(const char* a, int64_t a_stride, const char* b, int64_t b_stride, int steps, float* acc) {
  V sums[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) sums[r][v] = zero();
  for (int s = 0; s < steps; ++s, a += 4, b += b_stride) {
    V row[N];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) row[v] = load((const float*)b + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sums[r][v] = Product<G>::step(sums[r][v], a + r * a_stride, row[v]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) store(acc + r * PANEL + v * W, sums[r][v]);
}

template <class G, int N>
static inline void tile_rows(const char* a, int64_t a_stride, const char* b, int64_t b_stride, int steps, int rows,
                             float* acc) {
  switch (rows) {
    case 1: return tile_of<G, 1, N>(a, a_stride, b, b_stride, steps, acc);
    case 2: return tile_of<G, 2, N>(a, a_stride, b, b_stride, steps, acc);
    case 3: return tile_of<G, 3, N>(a, a_stride, b, b_stride, steps, acc);
    case 4: return tile_of<G, 4, N>(a, a_stride, b, b_stride, steps, acc);
    case 5: return tile_of<G, 5, N>(a, a_stride, b, b_stride, steps, acc);
    default: return tile_of<G, 6, N>(a, a_stride, b, b_stride, steps, acc);
  }
}

}  // namespace NS

#ifdef ISOPATCH_TILES
#include "amx_tile.h"
#endif

namespace NS {

#ifndef ISOPATCH_TILES
struct TileSession {};
#endif

template <class G>
struct TileRows {
  static constexpr int value = 6;
};
#ifdef ISOPATCH_TILES
template <>
struct TileRows<bf16> {
  static constexpr int value = 32;
};
#endif

// rows <= TileRows<G>::value; A is readable for that many. width <= PANEL: columns of acc that are wanted.
template <class G>
static inline void tile(const void* a, int64_t a_stride, const void* b, int64_t b_stride, int steps, int rows, int width,
                        float* acc) {
  const char *x = (const char*)a, *y = (const char*)b;
#ifdef ISOPATCH_TILES
  if (sizeof(G) == 2) return tile_by_amx(x, a_stride, y, b_stride, steps, acc);
#endif
  if (width <= W) return tile_rows<G, 1>(x, a_stride, y, b_stride, steps, rows, acc);
  if (width <= VECTORS / 2 * W) return tile_rows<G, VECTORS / 2>(x, a_stride, y, b_stride, steps, rows, acc);
  tile_rows<G, VECTORS>(x, a_stride, y, b_stride, steps, rows, acc);
}

}  // namespace NS
