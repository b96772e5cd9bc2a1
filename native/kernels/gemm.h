// Matrix products of activations (rows: pixels or tokens) with weights, blocked for the caches.
//
// Inner and outer sizes are multiples of 32. Weights are packed once: for each panel of PANEL columns, step by step.
#pragma once
#include <cstdint>

#include "tile.h"

namespace NS {

template <class G>
static inline G operand_of(float x);
template <>
inline float operand_of<float>(float x) {
  return x;
}
template <>
inline bf16 operand_of<bf16>(float x) {
  return to_bf16(x);
}

static inline int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

// Bytes of a packed (inner x columns) matrix.
template <class G>
static int64_t packed_bytes(int64_t inner, int64_t columns) {
  return panels_of(columns) * PANEL * inner * (int64_t)sizeof(G);
}

// Packs B(i, c) = weights[c * column_stride + i * inner_stride]; columns beyond the last are zero.
template <class G>
static void pack(const float* weights, int64_t inner_stride, int64_t column_stride, int64_t inner, int64_t columns,
                 G* packed) {
  constexpr int per = Product<G>::per_step;
  for (int64_t p = 0; p < panels_of(columns); ++p)
    for (int64_t s = 0; s < inner / per; ++s)
      for (int64_t c = p * PANEL; c < (p + 1) * PANEL; ++c)
        for (int64_t j = 0; j < per; ++j)
          *packed++ = operand_of<G>(c < columns ? weights[c * column_stride + (s * per + j) * inner_stride] : 0.0f);
}

// For each block of rows and panel of columns: finish(row, rows, column, columns, acc), acc rows of PANEL floats.
// a: rows of `inner` operands, `a_stride` bytes apart; readable up to a multiple of TileRows rows.
template <class G, class Finish>
static void multiply(const void* a, int64_t a_stride, int64_t rows, int64_t inner, const void* packed, int64_t columns,
                     const Finish& finish) {
  constexpr int64_t b_stride = PANEL * 4;
  const int steps = (int)(inner / Product<G>::per_step);
  constexpr int height = TileRows<G>::value;
  const TileSession tiles;
  (void)tiles;
  alignas(64) float acc[height * PANEL];
  for (int64_t p = 0; p < panels_of(columns); ++p) {
    const char* b = (const char*)packed + p * steps * b_stride;
    const int width = (int)least(PANEL, columns - p * PANEL);
    for (int64_t row = 0; row < rows; row += height) {
      const int count = (int)least(height, rows - row);
      tile<G>((const char*)a + row * a_stride, a_stride, b, b_stride, steps, count, width, acc);
      finish(row, count, p * PANEL, width, acc);
    }
  }
}

// sums (m x columns) += A B with A (m x inner) by rows and B step by step, `columns` entries of four bytes a step.
template <class G>
static void accumulate(const void* a, int64_t a_stride, int64_t m, const void* b, int64_t inner, int64_t columns,
                       float* sums) {
  const int steps = (int)(inner / Product<G>::per_step);
  constexpr int height = TileRows<G>::value;
  const TileSession tiles;
  (void)tiles;
  alignas(64) float acc[height * PANEL];
  for (int64_t column = 0; column < columns; column += PANEL) {
    const int width = (int)least(PANEL, columns - column);
    for (int64_t row = 0; row < m; row += height) {
      const int count = (int)least(height, m - row);
      tile<G>((const char*)a + row * a_stride, a_stride, (const char*)b + column * 4, columns * 4, steps, count,
              width, acc);
      for (int r = 0; r < count; ++r) {
        float* out = sums + (row + r) * columns + column;
        for (int c = 0; c < width; c += W) store(out + c, load(out + c) + load(acc + r * PANEL + c));
      }
    }
  }
}

}  // namespace NS
