// Multi-head attention of short sequences: one task per picture and head, whose keys and values stay in the cache.
//
// Scores are float; the softmax's weights are rounded to operands before they are divided by their sum (Dao et al. 2022
// divide last too). The backward pass computes the weights again from the logarithms of the sums.
#pragma once
#include <cmath>

#include "rows.h"

namespace NS {

constexpr float LOG2_E = 1.44269504f;
constexpr int64_t QUERIES = 96;  // rows of scores at a time

static inline int64_t rounded_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// Rows of `width` stored values, `stride` apart -> operands, padded with zeros to `padded`.
template <class T, class G>
static void operand_rows(const T* from, int64_t stride, int64_t count, int64_t width, int64_t padded, G* to) {
  for (int64_t row = 0; row < count; ++row)
    for (int64_t c = 0; c < padded; c += W) store(to + row * padded + c, c < width ? load(from + row * stride + c) : zero());
}

// Packs rows as the columns of a product: B(i, c) = rows[c][i].
template <class G>
static void pack_as_columns(const G* rows, int64_t count, int64_t inner, G* packed) {
  const int64_t steps = inner / Product<G>::per_step;
  V block[W];
  for (int64_t c = 0; c < panels_of(count) * PANEL; c += W)
    for (int64_t s = 0; s < steps; s += W) {
      for (int64_t i = 0; i < W; ++i) block[i] = c + i < count ? load((const float*)(rows + (c + i) * inner) + s) : zero();
      transpose(block);
      for (int64_t i = 0; i < W; ++i) store((float*)packed + (c / PANEL * steps + s + i) * PANEL + c % PANEL, block[i]);
    }
}

// Packs rows as they are: B(i, c) = rows[i][c], with rows of zeros up to `padded`.
template <class T, class G>
static void pack_as_rows(const T* from, int64_t stride, int64_t count, int64_t padded, int64_t columns, G* packed) {
  for (int64_t pair = 0; pair < padded / 2; ++pair)
    for (int64_t c = 0; c < panels_of(columns) * PANEL; c += W) {
      V both[2];
      for (int64_t j = 0; j < 2; ++j)
        both[j] = 2 * pair + j < count && c < columns ? load(from + (2 * pair + j) * stride + c) : zero();
      store_pair(packed + c / PANEL * padded * PANEL, PANEL, pair, c % PANEL, both[0], both[1]);
    }
}

// Sizes of one head, and where its rows lie in qkv.
struct Head {
  int64_t n, width, inner, keys, wide, stride, at;

  // a: AttentionForward or AttentionBackward.
  template <class S>
  Head(const S& a, int64_t task)
      : n(a.tokens),
        width(a.width),
        inner(rounded_up(width, 32)),
        keys(rounded_up(n, 32)),
        wide(rounded_up(n, 64)),  // floats from one row of scores to the next
        stride(3 * a.heads * width),
        at(task / a.heads * n * stride + task % a.heads * width) {}
};

// rows (count, inner) times `packed`, n columns -> scores, a row every `wide` floats.
template <class G>
static void scores_of(const Head& h, const G* rows, int64_t count, const G* packed, float* scores) {
  multiply<G>(rows, h.inner * (int64_t)sizeof(G), count, h.inner, packed, h.n,
              [&](int64_t row, int height, int64_t column, int, const float* acc) {
                for (int i = 0; i < height; ++i)
                  for (int c = 0; c < PANEL; c += W)
                    store(scores + (row + i) * h.wide + column + c, load(acc + i * PANEL + c));
              });
}

template <class T>
static void attention_forward(const AttentionForward& a, int64_t task) {
  using G = typename OperandOf<T>::type;
  const Head h(a, task);
  const int64_t size = (int64_t)sizeof(G), of_head = a.heads * h.width;
  const T *q = (const T*)a.qkv + h.at, *k = q + of_head, *v = k + of_head;
  T* out = (T*)a.out + task / a.heads * h.n * of_head + task % a.heads * h.width;
  G* rows = (G*)scratch(0, h.keys * h.inner * size);
  G* packed_k = (G*)scratch(1, h.wide * h.inner * size);
  G* packed_v = (G*)scratch(2, panels_of(h.width) * PANEL * h.keys * size);
  float* scores = (float*)scratch(3, QUERIES * h.wide * (int64_t)sizeof(float));
  G* weights = (G*)scratch(4, QUERIES * h.keys * size);
  G* queries = (G*)scratch(5, QUERIES * h.inner * size);
  operand_rows(k, h.stride, h.n, h.width, h.inner, rows);
  pack_as_columns(rows, h.n, h.inner, packed_k);
  pack_as_rows(v, h.stride, h.n, h.keys, h.width, packed_v);
  float inverse[QUERIES];
  const V factor = set1((float)a.factor * LOG2_E);
  for (int64_t start = 0; start < h.n; start += QUERIES) {
    const int64_t count = least(QUERIES, h.n - start);
    operand_rows(q + start * h.stride, h.stride, count, h.width, h.inner, queries);
    scores_of(h, queries, count, packed_k, scores);
    for (int64_t row = 0; row < count; ++row) {
      float* s = scores + row * h.wide;
      for (int64_t c = h.n; c < h.keys; ++c) s[c] = -3e38f;  // no key is there
      V most = load(s);
      for (int64_t c = 0; c < h.keys; c += W) most = max(most, load(s + c));
      const float top = largest(most) * (float)a.factor;
      const V shift = set1(-top * LOG2_E);
      V sum = zero();
      for (int64_t c = 0; c < h.keys; c += W) {
        const V weight = power_of_two<T>(fma(load(s + c), factor, shift));
        sum = sum + weight;
        store(weights + row * h.keys + c, weight);
      }
      const float all = total(sum);
      inverse[row] = 1 / all;
      if (a.log_sums) a.log_sums[task * h.n + start + row] = top + std::log(all);
    }
    multiply<G>(weights, h.keys * size, count, h.keys, packed_v, h.width,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  for (int i = 0; i < height; ++i)
                    for (int c = 0; c < width; c += W)
                      store(out + (start + row + i) * of_head + column + c,
                            load(acc + i * PANEL + c) * set1(inverse[row + i]));
                });
  }
}

// With P the weights, D = sum(g out) of each row and S = factor P (g v^T - D): the gradients of q, k and v are
// S k, S^T q and P^T g.
template <class T>
static void attention_backward(const AttentionBackward& a, int64_t task) {
  using G = typename OperandOf<T>::type;
  const Head h(a, task);
  const int64_t size = (int64_t)sizeof(G), of_head = a.heads * h.width;
  const T *q = (const T*)a.qkv + h.at, *k = q + of_head, *v = k + of_head;
  const int64_t own = task / a.heads * h.n * of_head + task % a.heads * h.width;
  const T *out = (const T*)a.out + own, *g = (const T*)a.g + own;
  T *gq = (T*)a.g_qkv + h.at, *gk = gq + of_head, *gv = gk + of_head;
  G* rows = (G*)scratch(0, h.keys * h.inner * size);
  G* columns_k = (G*)scratch(1, h.wide * h.inner * size);
  G* columns_v = (G*)scratch(2, h.wide * h.inner * size);
  G* rows_k = (G*)scratch(3, panels_of(h.width) * PANEL * h.keys * size);
  float* scores = (float*)scratch(4, QUERIES * h.wide * (int64_t)sizeof(float));
  float* products = (float*)scratch(5, QUERIES * h.wide * (int64_t)sizeof(float));
  G* paired_p = (G*)scratch(6, QUERIES * h.keys * size);
  G* paired_s = (G*)scratch(7, QUERIES * h.keys * size);
  G* turned = (G*)scratch(8, QUERIES * h.keys * size);
  G* rows_s = (G*)scratch(9, QUERIES * h.keys * size);
  G* packed = (G*)scratch(10, QUERIES * panels_of(h.width) * PANEL * size);
  float* sums = (float*)scratch(11, 2 * h.keys * h.width * (int64_t)sizeof(float));  // of gk, then of gv
  set_to(sums, 2 * h.keys * h.width, 0.0f);
  operand_rows(k, h.stride, h.n, h.width, h.inner, rows);
  pack_as_columns(rows, h.n, h.inner, columns_k);
  operand_rows(v, h.stride, h.n, h.width, h.inner, rows);
  pack_as_columns(rows, h.n, h.inner, columns_v);
  pack_as_rows(k, h.stride, h.n, h.keys, h.width, rows_k);
  const V factor = set1((float)a.factor), by_two = set1((float)a.factor * LOG2_E);
  for (int64_t start = 0; start < h.n; start += QUERIES) {
    const int64_t count = least(QUERIES, h.n - start), padded = rounded_up(count, 32);
    const T *own_q = q + start * h.stride, *own_g = g + start * of_head, *own_out = out + start * of_head;
    operand_rows(own_q, h.stride, count, h.width, h.inner, rows);
    scores_of(h, rows, count, columns_k, scores);
    operand_rows(own_g, of_head, count, h.width, h.inner, rows);
    scores_of(h, rows, count, columns_v, products);
    for (int64_t pair = 0; pair < padded / 2; ++pair) {
      V shift[2], within[2];
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t row = 2 * pair + j;
        V sum = zero();
        for (int64_t c = 0; row < count && c < h.width; c += W)
          sum = fma(load(own_g + row * of_head + c), load(own_out + row * of_head + c), sum);
        within[j] = set1(total(sum));
        shift[j] = set1(row < count ? -LOG2_E * a.log_sums[task * h.n + start + row] : 0.0f);
        for (int64_t c = h.n; row < count && c < h.keys; ++c) {
          scores[row * h.wide + c] = -3e38f;  // no key is there
          products[row * h.wide + c] = 0;
        }
      }
      for (int64_t c = 0; c < h.keys; c += W) {
        V p[2], s[2];
        for (int64_t j = 0; j < 2; ++j) {
          const int64_t row = 2 * pair + j, at = row * h.wide + c;
          p[j] = s[j] = zero();
          if (row < count) {
            p[j] = power_of_two<T>(fma(load(scores + at), by_two, shift[j]));
            s[j] = p[j] * (load(products + at) - within[j]) * factor;
          }
          store(rows_s + row * h.keys + c, s[j]);
        }
        store_pair(paired_p, h.keys, pair, c, p[0], p[1]);
        store_pair(paired_s, h.keys, pair, c, s[0], s[1]);
      }
    }
    multiply<G>(rows_s, h.keys * size, count, h.keys, rows_k, h.width,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  for (int i = 0; i < height; ++i)
                    for (int c = 0; c < width; c += W)
                      store(gq + (start + row + i) * h.stride + column + c, load(acc + i * PANEL + c));
                });
    const auto add_turned = [&](const G* paired, const T* from, int64_t stride, float* to) {
      transpose_rows(paired, padded, h.keys, turned);
      pack_as_rows(from, stride, count, padded, h.width, packed);
      multiply<G>(turned, padded * size, h.keys, padded, packed, h.width,
                  [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                    for (int i = 0; i < height; ++i)
                      for (int c = 0; c < width; c += W)
                        add(to + (row + i) * h.width + column + c, load(acc + i * PANEL + c));
                  });
    };
    add_turned(paired_s, own_q, h.stride, sums);
    add_turned(paired_p, own_g, of_head, sums + h.keys * h.width);
  }
  for (int64_t row = 0; row < h.n; ++row)
    for (int64_t c = 0; c < h.width; c += W) {
      store(gk + row * h.stride + c, load(sums + row * h.width + c));
      store(gv + row * h.stride + c, load(sums + (h.keys + row) * h.width + c));
    }
}

}  // namespace NS
