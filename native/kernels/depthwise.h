// Depthwise convolution of 32 channels of one picture, in float, on a plane with its zero border written out.
//
// A plane holds (rows, columns, 32) floats. A segment is SEGMENT output places of one row; planes are wide enough for
// whole segments, what they compute beyond the map is left out by `finish`.
#pragma once
#include <cstdint>
#include <cstring>

#include "isa.h"
#include "pool.h"

namespace NS {

constexpr int LANES = 32;  // channels of a plane
#ifdef ISOPATCH_AVX2
constexpr int LONG = 8;
#else
constexpr int LONG = 16;
#endif
constexpr int SHORT = 8;

struct Plane {
  int64_t rows, columns;  // with the border
  float* memory;

  float* at(int64_t row, int64_t column) const { return memory + (row * columns + column) * LANES; }
};

static inline int segment_for(int64_t width) { return width <= SHORT ? SHORT : LONG; }

// The calling thread's plane `slot` (0 or 1) for maps of this size; zero but for the map itself, which begins at
// (top, left).
static inline Plane plane_for(int slot, int64_t height, int64_t width, int64_t kernel, int64_t top, int64_t left) {
  const int64_t segment = segment_for(width), whole = (width + segment - 1) / segment * segment;
  Plane plane{height + kernel - 1, whole + kernel - 1, nullptr};
  const int64_t bytes = plane.rows * plane.columns * LANES * (int64_t)sizeof(float);
  const int64_t layout = (((height << 16 | width) << 8 | kernel) << 8 | top) << 8 | left;
  plane.memory = (float*)bordered(slot, bytes, layout);
  return plane;
}

// Channels [0, W) of S places: taps of one kernel row in registers, every input vector used by all of them.
template <int K, int S>
static inline void segment_of(const float* in, int64_t row_stride, const float* weight, int64_t tap_stride, float* out) {
  V sums[S];
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) sums[i] = zero();
  for (int dy = 0; dy < K; ++dy, in += row_stride) {
    V taps[K];
#pragma GCC unroll 16
    for (int dx = 0; dx < K; ++dx, weight += tap_stride) taps[dx] = load(weight);
#pragma GCC unroll 32
    for (int i = 0; i < S + K - 1; ++i) {
      V x = load(in + i * LANES);
#pragma GCC unroll 16
      for (int dx = 0; dx < K; ++dx)
        if (i - dx >= 0 && i - dx < S) sums[i - dx] = fma(x, taps[dx], sums[i - dx]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) store(out + i * LANES, sums[i]);
}

template <int S>
static inline void segment_any(int kernel, const float* in, int64_t row_stride, const float* weight, int64_t tap_stride,
                               float* out) {
  V sums[S];
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) sums[i] = zero();
  for (int dy = 0; dy < kernel; ++dy, in += row_stride)
    for (int dx = 0; dx < kernel; ++dx, weight += tap_stride) {
      V tap = load(weight);
#pragma GCC unroll 16
      for (int i = 0; i < S; ++i) sums[i] = fma(load(in + (i + dx) * LANES), tap, sums[i]);
    }
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) store(out + i * LANES, sums[i]);
}

template <int S>
static inline void segment(int kernel, const float* in, int64_t row_stride, const float* weight, int64_t tap_stride,
                           float* out) {
  switch (kernel) {
    case 3: return segment_of<3, S>(in, row_stride, weight, tap_stride, out);
    case 5: return segment_of<5, S>(in, row_stride, weight, tap_stride, out);
    case 7: return segment_of<7, S>(in, row_stride, weight, tap_stride, out);
    case 9: return segment_of<9, S>(in, row_stride, weight, tap_stride, out);
    default: return segment_any<S>(kernel, in, row_stride, weight, tap_stride, out);
  }
}

// finish(row, column, count, sums): sums (count, 32) floats of the places from (row, column) on.
// weight: (kernel * kernel) taps of 32 floats, tap_stride floats apart.
template <class Finish>
static void convolve(const Plane& plane, int64_t height, int64_t width, int kernel, const float* weight,
                     int64_t tap_stride, const Finish& finish) {
  const int size = segment_for(width);
  const int64_t row_stride = plane.columns * LANES;
  alignas(64) float out[LONG * LANES];
  for (int64_t row = 0; row < height; ++row)
    for (int64_t column = 0; column < width; column += size) {
      for (int lane = 0; lane < LANES; lane += W) {
        const float* in = plane.at(row, column) + lane;
        if (size == SHORT)
          segment<SHORT>(kernel, in, row_stride, weight + lane, tap_stride, out + lane);
        else
          segment<LONG>(kernel, in, row_stride, weight + lane, tap_stride, out + lane);
      }
      const int64_t left = width - column;
      finish(row, column, (int)(left < size ? left : size), out);
    }
}

// sums[r][n] += sum over places of d(place) x(place + (r, n)): N taps of R kernel rows, channels [0, W).
template <int N, int R>
static inline void correlate_of(const float* d, int64_t d_stride, const float* x, int64_t x_stride, int64_t height,
                                int64_t width, float* sums, int64_t tap_stride, int64_t row_taps) {
  V acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[r][n] = zero();
  for (int64_t row = 0; row < height; ++row, d += d_stride, x += x_stride)
    for (int64_t column = 0; column < width; ++column) {
      V here = load(d + column * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) acc[r][n] = fma(here, load(x + r * x_stride + (column + n) * LANES), acc[r][n]);
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* out = sums + (r * row_taps + n) * tap_stride;
      store(out, load(out) + acc[r][n]);
    }
}

// sums (kernel * kernel taps, tap_stride floats apart, 32 channels) += correlation of d with x.
// d: first place of the gradient; x: the plane whose (row + dy, column + dx) meets place (row, column) at tap (dy, dx).
static void correlate(const float* d, int64_t d_stride, const Plane& x, int64_t height, int64_t width, int kernel,
                      float* sums, int64_t tap_stride) {
  const int64_t x_stride = x.columns * LANES;
  for (int lane = 0; lane < LANES; lane += W)
    for (int dx = 0; dx < kernel;) {
      const int left = kernel - dx, taps = left <= 8 ? left : (left + 1) / 2 <= 8 ? (left + 1) / 2 : 8;
      for (int dy = 0; dy < kernel;) {
        const int rows = taps <= 3 && kernel - dy >= 3 ? 3 : taps <= 6 && kernel - dy >= 2 ? 2 : 1;
        const float* from = x.at(dy, dx) + lane;
        float* to = sums + (dy * kernel + dx) * tap_stride + lane;
#define CASE(N, R)                                                                                            \
  case N * 10 + R:                                                                                            \
    correlate_of<N, R>(d + lane, d_stride, from, x_stride, height, width, to, tap_stride, kernel); \
    break;
        switch (taps * 10 + rows) {
          CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(3, 1) CASE(3, 2) CASE(3, 3)
          CASE(4, 1) CASE(4, 2) CASE(5, 1) CASE(5, 2) CASE(6, 1) CASE(6, 2) CASE(7, 1) CASE(8, 1)
        }
#undef CASE
        dy += rows;
      }
      dx += taps;
    }
}

}  // namespace NS
