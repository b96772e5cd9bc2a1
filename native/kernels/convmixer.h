// The passes of a ConvMixer block, forward. Between two passes every activation is written once.
#pragma once
#include "rows.h"
#include "toeplitz.h"

namespace NS {

// Sums over a map, first of each row, then of these: of a large map's values, one after another, too many bits are lost.
struct RowSums {
  V row[LANES / W], above[LANES / W];

  RowSums() {
    for (int v = 0; v < LANES / W; ++v) row[v] = above[v] = zero();
  }
  void next_row(int v) {
    above[v] = above[v] + row[v];
    row[v] = zero();
  }
  V total(int v) const { return above[v] + row[v]; }
};

// One picture, channels [first, first + LANES).
template <class Cells, class T, Act A>
static void depthwise_block(const DepthwiseForward& d, int64_t image, int64_t first) {
  const int64_t places = d.height * d.width, base = image * places * d.channels + first;
  const int kernel = (int)d.kernel;
  const Plane<Cells> plane = plane_for<Cells>(0, d.height, d.width, kernel, d.pad_top, d.pad_left);
  const float* taps = lay_out_taps(plane, d.weight + first, d.channels, kernel, false);
  const T* in = (const T*)d.in + base;
  T *x = d.in_scale ? (T*)d.x + base : nullptr, *out = (T*)d.out + base;
  for (int64_t row = 0; row < d.height; ++row) {
    typename Cells::Row rows[LANES / W];
    for (int v = 0; v < LANES / W; ++v) plane.start(rows[v], row, v * W);
    for (int64_t column = 0; column < d.width; ++column) {
      const int64_t at = (row * d.width + column) * d.channels;
      soon(in + at + LANES);
      soon_written(out + at);
      if (x) soon_written(x + at + LANES);
      for (int c = 0; c < LANES; c += W) {
        V value = load(in + at + c);
        if (x) {
          value = fma(activate<A, T>(value), load(d.in_scale + first + c), load(d.in_shift + first + c));
          store(x + at + c, value);
          value = stored<T>(value);
        }
        rows[c / W].put(value);
      }
    }
    for (auto& each : rows) each.end();
  }
  const T* residual = x ? x : in;
  V origin[LANES / W];
  RowSums sum, square;
  for (int v = 0; v < LANES / W; ++v) origin[v] = zero();
  convolve(plane, d.height, d.width, kernel, taps,
           [&](int c, int64_t row, int64_t column, int count, const float* found) {
             const int v = c / W;
             const V bias = load(d.bias + first + c);
             const int64_t at = (row * d.width + column) * d.channels + c;
             if (d.sums) {
               if (row == 0 && column == 0) origin[v] = activate<A, T>(stored<T>(load(found) + bias));
               if (column == 0) sum.next_row(v), square.next_row(v);
               V of_row = sum.row[v], squares_of_row = square.row[v];
               for (int i = 0; i < count; ++i) {
                 const V u = load(found + i * LANES) + bias;
                 store(out + at + i * d.channels, u);
                 const V a = activate<A, T>(stored<T>(u)) - origin[v];
                 of_row = of_row + a;
                 squares_of_row = fma(a, a, squares_of_row);
               }
               sum.row[v] = of_row;
               square.row[v] = squares_of_row;
             } else if (!d.scale) {
               for (int i = 0; i < count; ++i) store(out + at + i * d.channels, load(found + i * LANES) + bias);
             } else {
               const V scale = load(d.scale + first + c), shift = load(d.shift + first + c);
               for (int i = 0; i < count; ++i) {
                 const V a = activate<A, T>(load(found + i * LANES) + bias);
                 store(out + at + i * d.channels, load(residual + at + i * d.channels) + fma(a, scale, shift));
               }
             }
           });
  if (d.sums)
    for (int v = 0; v < LANES / W; ++v) {
      float* to = d.sums + image * 3 * d.channels + first + v * W;
      store(to, origin[v]);
      store(to + d.channels, sum.total(v));
      store(to + 2 * d.channels, square.total(v));
    }
}

// Channel blocks of a picture one after another share its cache lines; with few pictures they are tasks of their own.
template <class T, Act A>
static void depthwise_picture(const DepthwiseForward& d, int64_t image) {
  for (int64_t first = 0; first < d.channels; first += LANES)
    in_cells<T>(d, [&](auto cells) { depthwise_block<decltype(cells), T, A>(d, image, first); });
}
template <class T, Act A>
static void depthwise_piece(const DepthwiseForward& d, int64_t task) {
  const int64_t blocks = d.channels / LANES;
  in_cells<T>(d, [&](auto cells) { depthwise_block<decltype(cells), T, A>(d, task / blocks, task % blocks * LANES); });
}

// Where the rows of a 1x1 product come from is the only difference between the 1x1 step and the stem: `fill` writes
// `count` rows of operands from row `row` on; the rest is shared.
template <class T, Act A, class Fill>
static void product_forward(int64_t rows, int64_t inner, int64_t channels, int64_t chunk, int64_t task,
                            const void* weight, const float* bias, void* out_memory, const float* scale,
                            const float* shift, float* sums, const Fill& fill) {
  using G = typename OperandOf<T>::type;
  constexpr int64_t BLOCK = 96;
  const int64_t first = task * chunk, last = least(rows, first + chunk);
  G* a = (G*)scratch(0, BLOCK * inner * (int64_t)sizeof(G));
  T* out = (T*)out_memory;
  float* own = nullptr;
  if (sums) {
    own = sums + task * 3 * channels;
    set_to(own, 3 * channels, 0.0f);
  }
  for (int64_t start = first; start < last; start += BLOCK) {
    const int64_t count = least(BLOCK, last - start);
    fill(start, count, a);
    multiply<G>(a, inner * (int64_t)sizeof(G), count, inner, weight, channels,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  T* to = out + (start + row) * channels + column;
                  for (int c = 0; c < width; c += W) {
                    const V b = load(bias + column + c);
                    if (sums) {
                      float* at = own + column + c;
                      if (start + row == first) store(at, activate<A, T>(stored<T>(load(acc + c) + b)));
                      const V origin = load(at);
                      V sum = load(at + channels), square = load(at + 2 * channels);
                      for (int i = 0; i < height; ++i) {
                        const V u = load(acc + i * PANEL + c) + b;
                        store(to + i * channels + c, u);
                        const V value = activate<A, T>(stored<T>(u)) - origin;
                        sum = sum + value;
                        square = fma(value, value, square);
                      }
                      store(at + channels, sum);
                      store(at + 2 * channels, square);
                    } else if (!scale) {
                      for (int i = 0; i < height; ++i) store(to + i * channels + c, load(acc + i * PANEL + c) + b);
                    } else {
                      const V s = load(scale + column + c), t = load(shift + column + c);
                      for (int i = 0; i < height; ++i)
                        store(to + i * channels + c, fma(activate<A, T>(load(acc + i * PANEL + c) + b), s, t));
                    }
                  }
                });
  }
}

template <class T, Act A>
static void pointwise_forward(const PointwiseForward& p, int64_t task) {
  using G = typename OperandOf<T>::type;
  const T *x = (const T*)p.x, *u1 = (const T*)p.u1;
  product_forward<T, A>(p.rows, p.inner, p.channels, p.chunk, task, p.weight, p.bias, p.out, p.scale, p.shift,
                        p.sums, [&](int64_t start, int64_t count, G* a) {
                          for (int64_t i = 0; i < count; ++i) {
                            const int64_t at = (start + i) * p.inner;
                            for (int64_t c = 0; c < p.inner; c += W) {
                              V y = load(x + at + c);
                              if (u1)
                                y = y + fma(activate<A, T>(load(u1 + at + c)), load(p.scale1 + c), load(p.shift1 + c));
                              store(a + i * p.inner + c, y);
                            }
                          }
                        });
}

template <class T, Act A>
static void normalise(const Normalise& n, int64_t task) {
  const int64_t last = least(n.rows, (task + 1) * n.chunk);
  for (int64_t row = task * n.chunk; row < last; ++row)
    for (int64_t c = 0; c < n.channels; c += W) {
      const V a = activate<A, T>(load((const T*)n.u + row * n.channels + c));
      store((T*)n.x + row * n.channels + c, fma(a, load(n.scale + c), load(n.shift + c)));
    }
}

// A patch's values, one channel after another, rows of the patch within a channel.
template <class Each>
static inline void each_patch_value(const float* picture, int64_t in_channels, int64_t patch, int64_t stride_channel,
                                    int64_t stride_row, int64_t stride_column, const Each& each) {
  int64_t i = 0;
  for (int64_t channel = 0; channel < in_channels; ++channel)
    for (int64_t y = 0; y < patch; ++y)
      for (int64_t x = 0; x < patch; ++x)
        each(i++, picture[channel * stride_channel + y * stride_row + x * stride_column]);
}

template <class S>
static inline const float* patch_at(const S& s, int64_t row) {
  const int64_t columns = s.width / s.patch, places = s.height / s.patch * columns;
  const int64_t image = row / places, place = row % places;
  return s.pictures + image * s.stride_image + place / columns * s.patch * s.stride_row +
         place % columns * s.patch * s.stride_column;
}

// One patch as operands, padded with zeros; its pixels in the order of `each_patch_value`.
template <class G>
static void patch_operands(const StemForward& s, int64_t row, G* to) {
  const float* picture = patch_at(s, row);
  if (s.stride_column != 1 || s.patch % W) {
    std::memset(to, 0, s.inner * (int64_t)sizeof(G));
    each_patch_value(picture, s.in_channels, s.patch, s.stride_channel, s.stride_row, s.stride_column,
                     [&](int64_t i, float value) { to[i] = operand_of<G>(value); });
    return;
  }
  for (int64_t channel = 0; channel < s.in_channels; ++channel)
    for (int64_t y = 0; y < s.patch; ++y)
      for (int64_t x = 0; x < s.patch; x += W, to += W)
        store(to, load(picture + channel * s.stride_channel + y * s.stride_row + x));
  for (int64_t i = s.in_channels * s.patch * s.patch; i < s.inner; i += W, to += W) store(to, zero());
}

template <class T, Act A>
static void stem_forward(const StemForward& s, int64_t task) {
  const int64_t rows = s.images * (s.height / s.patch) * (s.width / s.patch);
  product_forward<T, A>(rows, s.inner, s.channels, s.chunk, task, s.weight, s.bias, s.out, s.scale, s.shift, s.sums,
                        [&](int64_t start, int64_t count, typename OperandOf<T>::type* a) {
                          for (int64_t i = 0; i < count; ++i) patch_operands(s, start + i, a + i * s.inner);
                        });
}

}  // namespace NS
