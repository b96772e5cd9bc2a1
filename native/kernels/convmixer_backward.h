// The passes of a ConvMixer block, backward.
//
// Through norm and activation, with xhat = (act(u) - mean) rstd and means over all places (Ioffe and Szegedy 2015):
//   gradient of u = act'(u) scale (g - mean(g) - xhat mean(g xhat)); with fixed statistics both means are zero.
#pragma once
#include "convmixer.h"

namespace NS {

template <class T, Act A>
static inline V through_norm(V g, V u, V mean, V rstd, V scale, V mean_g, V mean_gx) {
  V slope;
  const V xhat = (activate<A, T>(u, slope) - mean) * rstd;
  return (g - mean_g - xhat * mean_gx) * scale * slope;
}

template <class T, Act A>
static void gradient_sums(const GradientSums& s, int64_t task) {
  float* own = s.sums + task * 2 * s.channels;
  set_to(own, 2 * s.channels, 0.0f);
  const int64_t last = least(s.rows, (task + 1) * s.chunk);
  for (int64_t row = task * s.chunk; row < last; ++row)
    for (int64_t c = 0; c < s.channels; c += W) {
      const V g = load((const T*)s.g + row * s.channels + c);
      const V xhat = (activate<A, T>(load((const T*)s.u + row * s.channels + c)) - load(s.mean + c)) * load(s.rstd + c);
      add(own + c, g);
      add(own + s.channels + c, g * xhat);
    }
}

// Gradients of u for `count` rows from `start`: rows (as operands), pairs of rows, and their sum per channel; zero up to
// `padded` rows. S has g, u and the norm's vectors.
template <class T, Act A, class G, class S>
static void gradient_rows(const S& p, int64_t start, int64_t count, int64_t padded, G* rows, G* paired, float* bias_sums) {
  set_to(bias_sums, p.channels, 0.0f);
  for (int64_t pair = 0; pair < padded / 2; ++pair)
    for (int64_t c = 0; c < p.channels; c += W) {
      V both[2];
      for (int j = 0; j < 2; ++j) {
        const int64_t row = 2 * pair + j, at = (start + row) * p.channels + c;
        both[j] = zero();
        if (row < count)
          both[j] = through_norm<T, A>(load((const T*)p.g + at), load((const T*)p.u + at), load(p.mean + c),
                                    load(p.rstd + c), load(p.scale + c), load(p.mean_g + c), load(p.mean_gx + c));
        if (rows) store(rows + row * p.channels + c, both[j]);
      }
      add(bias_sums + c, both[0] + both[1]);
      store_pair(paired, p.channels, pair, c, both[0], both[1]);
    }
}

template <class T, Act A>
static void pointwise_backward(const PointwiseBackward& p, int64_t group) {
  using G = typename OperandOf<T>::type;
  const int64_t padded = p.chunk, size = (int64_t)sizeof(G);
  G* rows = (G*)scratch(0, padded * p.channels * size);
  G* paired = (G*)scratch(1, padded * p.channels * size);
  G* columns = (G*)scratch(2, padded * p.channels * size);
  G* y = (G*)scratch(3, padded * p.inner * size + PANEL * 4);  // the last panel may be read beyond its end
  T* active = (T*)scratch(4, padded * p.inner * (int64_t)sizeof(T));
  const T *x = (const T*)p.x, *u1 = (const T*)p.u1;
  float* weight_sums = p.weight_sums + group * p.channels * p.inner;
  set_to(weight_sums, p.channels * p.inner, 0.0f);
  int64_t first, last;
  part_of(chunks_of(p.rows, p.chunk), p.groups, group, first, last);
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t start = chunk * p.chunk, count = least(p.chunk, p.rows - start);
    gradient_rows<T, A>(p, start, count, padded, rows, paired, p.bias_sums + chunk * p.channels);
    transpose_rows(paired, padded, p.channels, columns);
    for (int64_t pair = 0; pair < padded / 2; ++pair)
      for (int64_t c = 0; c < p.inner; c += W) {
        V both[2];
        for (int j = 0; j < 2; ++j) {
          const int64_t row = 2 * pair + j, at = (start + row) * p.inner + c;
          both[j] = zero();
          if (row < count) {
            const V a = activate<A, T>(load(u1 + at));
            store(active + row * p.inner + c, a);
            both[j] = load(x + at) + fma(a, load(p.scale1 + c), load(p.shift1 + c));
          }
        }
        store_pair(y, p.inner, pair, c, both[0], both[1]);
      }
    float* sums = p.sums + chunk * 2 * p.inner;
    set_to(sums, 2 * p.inner, 0.0f);
    multiply<G>(rows, p.channels * size, count, p.channels, p.weight, p.inner,
                [&](int64_t row, int height, int64_t column, int width, const float* acc) {
                  T* to = (T*)p.gy + (start + row) * p.inner + column;
                  const T* a = active + row * p.inner + column;
                  for (int c = 0; c < width; c += W) {
                    const V mean = load(p.mean1 + column + c), rstd = load(p.rstd1 + column + c);
                    V sum = load(sums + column + c), product = load(sums + p.inner + column + c);
                    for (int i = 0; i < height; ++i) {
                      const V g = load(acc + i * PANEL + c);
                      store(to + i * p.inner + c, g);
                      const V kept = stored<T>(g);
                      sum = sum + kept;
                      product = fma(kept, (load(a + i * p.inner + c) - mean) * rstd, product);
                    }
                    store(sums + column + c, sum);
                    store(sums + p.inner + column + c, product);
                  }
                });
    accumulate<G>(columns, padded * size, p.channels, y, padded, p.inner, weight_sums);
  }
}

template <class T, Act A>
static void stem_backward(const StemBackward& s, int64_t group) {
  using G = typename OperandOf<T>::type;
  const int64_t rows = s.images * (s.height / s.patch) * (s.width / s.patch), size = (int64_t)sizeof(G);
  G* paired = (G*)scratch(1, s.chunk * s.channels * size);
  G* columns = (G*)scratch(2, s.chunk * s.channels * size);
  G* patches = (G*)scratch(3, s.chunk * s.inner * size + PANEL * 4);
  constexpr int64_t per = Product<G>::per_step;
  float* weight_sums = s.weight_sums + group * s.channels * s.inner;
  set_to(weight_sums, s.channels * s.inner, 0.0f);
  int64_t first, last;
  part_of(chunks_of(rows, s.chunk), s.groups, group, first, last);
  for (int64_t chunk = first; chunk < last; ++chunk) {
    const int64_t start = chunk * s.chunk, count = least(s.chunk, rows - start);
    gradient_rows<T, A>(s, start, count, s.chunk, (G*)nullptr, paired, s.bias_sums + chunk * s.channels);
    transpose_rows(paired, s.chunk, s.channels, columns);
    std::memset(patches, 0, s.chunk * s.inner * size);
    for (int64_t i = 0; i < count; ++i)
      each_patch_value(patch_at(s, start + i), s.in_channels, s.patch, s.stride_channel, s.stride_row, s.stride_column,
                       [&](int64_t j, float value) {
                         patches[(i / per * s.inner + j) * per + i % per] = operand_of<G>(value);
                       });
    accumulate<G>(columns, s.chunk * size, s.channels, patches, s.chunk, s.inner, weight_sums);
  }
}

// One picture, channels [channel, channel + LANES); the parameters' gradients are added to the sums of its group.
// ahead: how far from what is read lies what is to be asked for.
template <class Cells, class T, Act A>
static void depthwise_backward_block(const DepthwiseBackward& d, int64_t image, int64_t channel, int64_t ahead,
                                     float* weight_sums, float* bias_sums) {
  const int64_t places = d.height * d.width;
  const int kernel = (int)d.kernel;
  // The input's gradient is the convolution of the output's with the kernel turned by half a turn, borders swapped.
  const int64_t top = kernel - 1 - d.pad_top, left = kernel - 1 - d.pad_left;
  const Plane<Cells> gradient = plane_for<Cells>(0, d.height, d.width, kernel, top, left);
  const Plane<Cells> input = plane_for<Cells>(1, d.height, d.width, kernel, d.pad_top, d.pad_left);
  const float* turned = lay_out_taps(gradient, d.weight + channel, d.channels, kernel, true);
  const int64_t base = image * places * d.channels + channel;
  const T *gy = (const T*)d.gy + base, *x = (const T*)d.x + base;
  const T* u = d.u ? (const T*)d.u + base : nullptr;
  T* gx = (T*)d.gx + base;
  const T* before = d.before_u ? (const T*)d.before_u + base : nullptr;
  RowSums bias;
  for (int64_t row = 0; row < d.height; ++row) {
    typename Cells::Row of_gradient[LANES / W], of_input[LANES / W];
    for (int v = 0; v < LANES / W; ++v) {
      gradient.start(of_gradient[v], row, v * W);
      input.start(of_input[v], row, v * W);
      bias.next_row(v);
    }
    for (int64_t column = 0; column < d.width; ++column) {
      const int64_t place = (row * d.width + column) * d.channels;
      soon(gy + place + ahead);
      if (u) soon(u + place + ahead);
      soon(x + place + ahead);
      soon_written(gx + place);
      if (before) soon(before + place);
      for (int c = 0; c < LANES; c += W) {
        const int64_t at = place + c;
        V g = load(gy + at);
        if (u)
          g = through_norm<T, A>(g, load(u + at), load(d.mean + channel + c), load(d.rstd + channel + c),
                                 load(d.scale + channel + c), load(d.mean_g + channel + c),
                                 load(d.mean_gx + channel + c));
        of_gradient[c / W].put(g);
        of_input[c / W].put(load(x + at));
        bias.row[c / W] = bias.row[c / W] + g;
      }
    }
    for (auto& each : of_gradient) each.end();
    for (auto& each : of_input) each.end();
  }
  for (int v = 0; v < LANES / W; ++v) add(bias_sums + channel + v * W, bias.total(v));
  RowSums sums, products;
  convolve(gradient, d.height, d.width, kernel, turned,
           [&](int c, int64_t row, int64_t column, int count, const float* found) {
             const int v = c / W;
             if (column == 0) sums.next_row(v), products.next_row(v);
             for (int i = 0; i < count; ++i) {
               const int64_t at = (row * d.width + column + i) * d.channels + c;
               V g = load(found + i * LANES);
               if (u) g = g + load(gy + at);
               store(gx + at, g);
               if (before) {
                 const V kept = stored<T>(g);
                 const V xhat = (activate<A, T>(load(before + at)) - load(d.before_mean + channel + c)) *
                                load(d.before_rstd + channel + c);
                 sums.row[v] = sums.row[v] + kept;
                 products.row[v] = fma(kept, xhat, products.row[v]);
               }
             }
           });
  if (before)
    for (int v = 0; v < LANES / W; ++v) {
      float* to = d.before_sums + image * 2 * d.channels + channel + v * W;
      store(to, sums.total(v));
      store(to + d.channels, products.total(v));
    }
  correlate(gradient, input, d.height, d.width, kernel, weight_sums + channel, d.channels);
}

// The pictures of a group, channels [first, last).
template <class T, Act A>
static void depthwise_backward_group(const DepthwiseBackward& d, int64_t group, int64_t first, int64_t last,
                                     int64_t ahead) {
  const int64_t taps = d.kernel * d.kernel;
  float* weight_sums = d.weight_sums + group * taps * d.channels;
  float* bias_sums = d.bias_sums + group * d.channels;
  for (int64_t tap = 0; tap < taps; ++tap) set_to(weight_sums + tap * d.channels + first, last - first, 0.0f);
  set_to(bias_sums + first, last - first, 0.0f);
  int64_t image, end;
  part_of(d.images, d.groups, group, image, end);
  for (; image < end; ++image)
    for (int64_t channel = first; channel < last; channel += LANES)
      in_cells<T>(d, [&](auto cells) {
        depthwise_backward_block<decltype(cells), T, A>(d, image, channel, ahead, weight_sums, bias_sums);
      });
}

constexpr int64_t AHEAD = 12;  // places that reads are asked for ahead in a piece

// As with depthwise_picture and depthwise_piece, and to the same bits: what comes next lies beside, or places ahead.
template <class T, Act A>
static void depthwise_backward(const DepthwiseBackward& d, int64_t group) {
  depthwise_backward_group<T, A>(d, group, 0, d.channels, LANES);
}
template <class T, Act A>
static void depthwise_backward_piece(const DepthwiseBackward& d, int64_t task) {
  const int64_t blocks = d.channels / LANES, channel = task % blocks * LANES;
  depthwise_backward_group<T, A>(d, task / blocks, channel, channel + LANES, AHEAD * d.channels);
}

}  // namespace NS
