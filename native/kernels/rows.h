// Between storage and arithmetic: rounding, operands of products, sums per channel, chunks of rows.
#pragma once
#include "activation.h"
#include "gemm.h"
#include "passes.h"
#include "pool.h"

namespace NS {

// What a product of activations stored as T is multiplied in.
template <class T>
struct OperandOf {
  using type = Operand;
};
template <>
struct OperandOf<float> {
  using type = float;
};

// x as it will be read back from memory.
template <class T>
static inline V stored(V x);
template <>
inline V stored<float>(V x) {
  return x;
}
template <>
inline V stored<bf16>(V x) {
  return rounded(x);
}

// Rows 2 i and 2 i + 1 of the second operand of a product over rows: one float each, or pairs of bf16.
template <class G>
static inline void store_pair(G* out, int64_t columns, int64_t pair, int64_t column, V even, V odd);
template <>
inline void store_pair<float>(float* out, int64_t columns, int64_t pair, int64_t column, V even, V odd) {
  store(out + (2 * pair) * columns + column, even);
  store(out + (2 * pair + 1) * columns + column, odd);
}
#ifdef ISOPATCH_DOT
template <>
inline void store_pair<bf16>(bf16* out, int64_t columns, int64_t pair, int64_t column, V even, V odd) {
  store((float*)(out + 2 * pair * columns) + column, pairs(even, odd));
}
#endif

// From rows in that form to columns: out (columns, rows) of G, rows a multiple of 32.
template <class G>
static void transpose_rows(const G* in, int64_t rows, int64_t columns, G* out) {
  const int64_t steps = rows * (int64_t)sizeof(G) / 4;  // entries of four bytes
  V block[W];
  for (int64_t s = 0; s < steps; s += W)
    for (int64_t c = 0; c < columns; c += W) {
      for (int i = 0; i < W; ++i) block[i] = load((const float*)in + (s + i) * columns + c);
      transpose(block);
      for (int i = 0; i < W; ++i) store((float*)out + (c + i) * steps + s, block[i]);
    }
}

static inline void add(float* to, V x) { store(to, load(to) + x); }

static inline int64_t chunks_of(int64_t rows, int64_t chunk) { return (rows + chunk - 1) / chunk; }

// The part of `count` things that group g of `groups` has: [first, last).
static inline void part_of(int64_t count, int64_t groups, int64_t g, int64_t& first, int64_t& last) {
  first = count * g / groups;
  last = count * (g + 1) / groups;
}

}  // namespace NS
