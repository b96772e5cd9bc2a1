// The linear steps of a transformer block: norm or activation on the way in, bias and residual on the way out.
//
// The residual stream is float; what lies between two steps of a branch is stored as T.
#pragma once
#include <cmath>

#include "rows.h"

namespace NS {

// Mean and 1 / sqrt(variance + eps) of a row.
static inline void row_statistics(const float* x, int64_t size, double eps, float& mean, float& rstd) {
  V sum = zero(), squares = zero();
  for (int64_t c = 0; c < size; c += W) sum = sum + load(x + c);
  mean = total(sum) / (float)size;
  const V centre = set1(mean);
  for (int64_t c = 0; c < size; c += W) {
    const V apart = load(x + c) - centre;
    squares = fma(apart, apart, squares);
  }
  rstd = (float)(1 / std::sqrt(total(squares) / (double)size + eps));
}

// Entry (row, c ... c + W) of what a step multiplies. S: LinearForward or LinearBackward; mean, rstd: the row's.
template <class T, Act A, class S>
static inline V source_at(const S& s, int64_t row, int64_t c, float mean, float rstd) {
  const int64_t at = row * s.inner + c;
  if (s.source == SOURCE_NORM)
    return fma((load((const float*)s.in + at) - set1(mean)) * set1(rstd), load(s.norm_weight + c), load(s.norm_bias + c));
  const V x = load((const T*)s.in + at);
  return s.source == SOURCE_ACT ? activate<A, T>(x) : x;
}

static inline float kept(const float* keep, int64_t row, int64_t rows_per_image) {
  return keep ? keep[row / rows_per_image] : 1.0f;
}

constexpr int64_t ROWS = 96;  // rows of operands at a time

// `count` rows of what a step multiplies, from row `start`, as operands.
template <class T, Act A, class G>
static void source_rows(const LinearForward& l, int64_t start, int64_t count, G* to) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = start + i;
    float mean = 0, rstd = 0;
    if (l.source == SOURCE_NORM) {
      row_statistics((const float*)l.in + row * l.inner, l.inner, l.eps, mean, rstd);
      if (l.mean) {
        l.mean[row] = mean;
        l.rstd[row] = rstd;
      }
    }
    for (int64_t c = 0; c < l.inner; c += W) store(to + i * l.inner + c, source_at<T, A>(l, row, c, mean, rstd));
  }
}

// Operands of `count` rows from row `start` -> the step's output.
template <class T, class G>
static void linear_rows(const LinearForward& l, int64_t start, int64_t count, const G* a) {
  multiply<G>(a, l.inner * (int64_t)sizeof(G), count, l.inner, l.weight, l.columns,
              [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                for (int i = 0; i < height; ++i) {
                  const int64_t at = (start + row + i) * l.columns + column;
                  const V factor = set1(kept(l.keep, start + row + i, l.rows_per_image));
                  for (int c = 0; c < width; c += W) {
                    const V y = load(acc + i * PANEL + c) + load(l.bias + column + c);
                    if (l.residual)
                      store((float*)l.out + at + c, fma(y, factor, load(l.residual + at + c)));
                    else
                      store((T*)l.out + at + c, y);
                  }
                }
              });
}

template <class T, Act A>
static void linear_forward(const LinearForward& l, int64_t task) {
  using G = typename OperandOf<T>::type;
  const int64_t last = least(l.rows, (task + 1) * l.chunk);
  G* a = (G*)scratch(0, ROWS * l.inner * (int64_t)sizeof(G));
  for (int64_t start = task * l.chunk; start < last; start += ROWS) {
    const int64_t count = least(ROWS, last - start);
    source_rows<T, A>(l, start, count, a);
    linear_rows<T>(l, start, count, a);
  }
}

// Two steps with the activation between, the hidden units never in memory: second.in is unused.
template <class T, Act A>
static void mlp_forward(const LinearForward& first, const LinearForward& second, int64_t task) {
  using G = typename OperandOf<T>::type;
  const int64_t last = least(first.rows, (task + 1) * first.chunk);
  G* a = (G*)scratch(0, ROWS * first.inner * (int64_t)sizeof(G));
  G* hidden = (G*)scratch(1, ROWS * second.inner * (int64_t)sizeof(G));
  for (int64_t start = task * first.chunk; start < last; start += ROWS) {
    const int64_t count = least(ROWS, last - start);
    source_rows<T, A>(first, start, count, a);
    multiply<G>(a, first.inner * (int64_t)sizeof(G), count, first.inner, first.weight, first.columns,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  for (int c = 0; c < width; c += W) {
                    const V bias = load(first.bias + column + c);
                    for (int i = 0; i < height; ++i)
                      store(hidden + (row + i) * second.inner + column + c,
                            activate<A, T>(load(acc + i * PANEL + c) + bias));
                  }
                });
    linear_rows<T>(second, start, count, hidden);
  }
}

// Through LayerNorm (Ba et al. 2016): g, the gradient of its output -> the stream's, and sums for weight and bias.
static inline void through_layer_norm(const LinearBackward& l, int64_t row, const float* g, float* norm_sums) {
  const float* x = (const float*)l.in + row * l.inner;
  const V mean = set1(l.mean[row]), rstd = set1(l.rstd[row]);
  V sum = zero(), product = zero();
  for (int64_t c = 0; c < l.inner; c += W) {
    const V xhat = (load(x + c) - mean) * rstd, here = load(g + c), scaled = here * load(l.norm_weight + c);
    sum = sum + scaled;
    product = fma(scaled, xhat, product);
    add(norm_sums + c, here * xhat);
    add(norm_sums + l.inner + c, here);
  }
  const V mean_g = set1(total(sum) / (float)l.inner), mean_gx = set1(total(product) / (float)l.inner);
  for (int64_t c = 0; c < l.inner; c += W) {
    const V xhat = (load(x + c) - mean) * rstd, scaled = load(g + c) * load(l.norm_weight + c);
    store((float*)l.g_in + row * l.inner + c,
          fma(scaled - mean_g - xhat * mean_gx, rstd, load(l.g_stream + row * l.inner + c)));
  }
}

template <class T, Act A>
static void linear_backward(const LinearBackward& l, int64_t group) {
  using G = typename OperandOf<T>::type;
  const int64_t size = (int64_t)sizeof(G);
  G* rows = (G*)scratch(0, l.chunk * l.columns * size);
  G* paired = (G*)scratch(1, l.chunk * l.columns * size);
  G* turned = (G*)scratch(2, l.chunk * l.columns * size);
  G* in = (G*)scratch(3, l.chunk * l.inner * size + PANEL * 4);  // the last panel may be read beyond its end
  float* normed = l.source == SOURCE_NORM ? (float*)scratch(4, l.chunk * l.inner * (int64_t)sizeof(float)) : nullptr;
  float* weight_sums = l.weight_sums + group * l.columns * l.inner;
  set_to(weight_sums, l.columns * l.inner, 0.0f);
  int64_t first, last;
  part_of(chunks_of(l.rows, l.chunk), l.groups, group, first, last);
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t start = chunk * l.chunk, count = least(l.chunk, l.rows - start);
    const int64_t padded = (count + 31) / 32 * 32;
    float* bias_sums = l.bias_sums + chunk * l.columns;
    set_to(bias_sums, l.columns, 0.0f);
    for (int64_t pair = 0; pair < padded / 2; ++pair) {
      V factor[2];
      for (int j = 0; j < 2; ++j) {
        const int64_t row = 2 * pair + j;
        factor[j] = set1(row < count ? kept(l.keep, start + row, l.rows_per_image) : 0.0f);
      }
      for (int64_t c = 0; c < l.columns; c += W) {
        V both[2];
        for (int j = 0; j < 2; ++j) {
          const int64_t row = 2 * pair + j, at = (start + row) * l.columns + c;
          both[j] = zero();
          if (row < count) both[j] = l.residual ? load((const float*)l.g + at) * factor[j] : load((const T*)l.g + at);
          store(rows + row * l.columns + c, both[j]);
        }
        add(bias_sums + c, both[0] + both[1]);
        store_pair(paired, l.columns, pair, c, both[0], both[1]);
      }
      float mean[2] = {}, rstd[2] = {};
      for (int j = 0; j < 2 && l.source == SOURCE_NORM && 2 * pair + j < count; ++j) {
        mean[j] = l.mean[start + 2 * pair + j];
        rstd[j] = l.rstd[start + 2 * pair + j];
      }
      for (int64_t c = 0; c < l.inner; c += W) {
        V both[2];
        for (int j = 0; j < 2; ++j) {
          const int64_t row = 2 * pair + j;
          both[j] = row < count ? source_at<T, A>(l, start + row, c, mean[j], rstd[j]) : zero();
        }
        store_pair(in, l.inner, pair, c, both[0], both[1]);
      }
    }
    transpose_rows(paired, padded, l.columns, turned);
    accumulate<G>(turned, padded * size, l.columns, in, padded, l.inner, weight_sums);
    multiply<G>(rows, l.columns * size, count, l.columns, l.weight, l.inner,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  for (int i = 0; i < height; ++i) {
                    const int64_t at = (start + row + i) * l.inner + column;
                    for (int c = 0; c < width; c += W) {
                      V g = load(acc + i * PANEL + c);
                      if (l.source == SOURCE_NORM) {
                        store(normed + (row + i) * l.inner + column + c, g);
                        continue;
                      }
                      if (l.source == SOURCE_ACT) {
                        V slope;
                        activate<A, T>(load((const T*)l.in + at + c), slope);
                        g = g * slope;
                      }
                      store((T*)l.g_in + at + c, g);
                    }
                  }
                });
    if (l.source != SOURCE_NORM) continue;
    float* norm_sums = l.norm_sums + chunk * 2 * l.inner;
    set_to(norm_sums, 2 * l.inner, 0.0f);
    for (int64_t row = 0; row < count; ++row) through_layer_norm(l, start + row, normed + row * l.inner, norm_sums);
  }
}

}  // namespace NS
