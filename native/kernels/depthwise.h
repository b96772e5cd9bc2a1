// Depthwise convolution of 32 channels of one picture, summed in float, on a plane with its zero border written out.
//
// A plane holds (rows, columns, 32) cells of four bytes: a float, or, where pairs of bf16 are multiplied, a value and its
// right neighbour, so that one product serves two taps of a kernel row. A segment is SEGMENT output places of one row; planes are wide enough for
// whole segments, what they compute beyond the map is left out by `finish`.
#pragma once
#include <cstdint>
#include <cstring>

#include "isa.h"
#include "pool.h"

// Pairs pay where a product of pairs is issued at least half as often as a fused multiply-add: not on CPUs with AMX, which
// take four times as long for it.
#if defined(ISOPATCH_DOT) && !defined(ISOPATCH_TILES)
#define ISOPATCH_PAIRS
#endif

namespace NS {

constexpr int LANES = 32;  // channels of a plane
#ifdef ISOPATCH_AVX2
constexpr int LONG = 8;
#else
constexpr int LONG = 16;
#endif
constexpr int SHORT = 8;

// How cells are written and multiplied. A row is a writer of the values of a row of the map, from left to right.
struct Singles {
  static constexpr int taps = 1;  // of a product
  struct Row {
    float* next;
    void put(V value) {
      store(next, value);
      next += LANES;
    }
    void end() {}
  };
  static inline V step(V sum, V cell, V tap) { return fma(cell, tap, sum); }
  static inline V tap(V first, V) { return first; }
};

#ifdef ISOPATCH_PAIRS
struct Pairs {
  static constexpr int taps = 2;
  struct Row {
    float* next;
    __m512i left = _mm512_setzero_si512();
    void put(V value) {
      const __m512i here = _mm512_cvtepu16_epi32(narrow(value));
      store(next - LANES, _mm512_castsi512_ps(_mm512_or_si512(left, _mm512_slli_epi32(here, 16))));
      next += LANES;
      left = here;
    }
    void end() { store(next - LANES, _mm512_castsi512_ps(left)); }
  };
  static inline V step(V sum, V cell, V tap) { return _mm512_dpbf16_ps(sum, (__m512bh)cell, (__m512bh)tap); }
  static inline V tap(V first, V second) { return pairs(first, second); }
};
#endif

// The cells of maps stored as T.
template <class T>
struct CellsOf {
  using type = Singles;
};
#ifdef ISOPATCH_PAIRS
template <>
struct CellsOf<bf16> {
  using type = Pairs;
};
#endif

template <class Cells>
struct Plane {
  int64_t rows, columns;  // with the border
  int64_t top, left;      // where the map begins
  float* memory;

  float* at(int64_t row, int64_t column) const { return memory + (row * columns + column) * LANES; }
  // Channels [lane, lane + W) of a row of the map.
  void start(typename Cells::Row& row, int64_t of_map, int lane) const { row = {at(top + of_map, left) + lane}; }
};

static inline int segment_for(int64_t width) { return width <= SHORT ? SHORT : LONG; }

// The calling thread's plane `slot` (0 or 1) for maps of this size; zero but for the map itself, which begins at
// (top, left), and the cell before each of its rows, for which there is a column more.
template <class Cells>
static Plane<Cells> plane_for(int slot, int64_t height, int64_t width, int64_t kernel, int64_t top, int64_t left) {
  const int64_t segment = segment_for(width), whole = (width + segment - 1) / segment * segment;
  Plane<Cells> plane{height + kernel - 1, whole + kernel, top, left, nullptr};
  const int64_t bytes = (plane.rows * plane.columns + 1) * LANES * (int64_t)sizeof(float);
  const Border border{height, width, plane.rows, plane.columns, top, left, Cells::taps};
  plane.memory = (float*)bordered(slot, bytes, border) + LANES;
  return plane;
}

// Lays taps out as products take them: for each kernel row its first taps, its second ones ..., 32 channels each.
// weight: (kernel * kernel) taps, `stride` floats apart; `turned`: the kernel turned by half a turn.
template <class Cells>
static const float* lay_out_taps(const Plane<Cells>&, const float* weight, int64_t stride, int kernel, bool turned) {
  const int products = (kernel + Cells::taps - 1) / Cells::taps, last = kernel * kernel - 1;
  float* taps = (float*)scratch(2, kernel * products * LANES * (int64_t)sizeof(float));
  for (int dy = 0; dy < kernel; ++dy)
    for (int product = 0; product < products; ++product)
      for (int c = 0; c < LANES; c += W) {
        const int dx = product * Cells::taps, at = dy * kernel + dx;
        const V first = load(weight + (turned ? last - at : at) * stride + c);
        const V second = dx + 1 < kernel ? load(weight + (turned ? last - at - 1 : at + 1) * stride + c) : zero();
        store(taps + (dy * products + product) * LANES + c, Cells::tap(first, second));
      }
  return taps;
}

// Channels [0, W) of S places: taps of one kernel row in registers, every cell used by all of them.
template <class Cells, int K, int S>
static inline void segment_of(const float* in, int64_t row_stride, const float* taps, float* out) {
  constexpr int N = (K + Cells::taps - 1) / Cells::taps;
  V sums[S];
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) sums[i] = zero();
  for (int dy = 0; dy < K; ++dy, in += row_stride) {
    V row[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n, taps += LANES) row[n] = load(taps);
#pragma GCC unroll 32
    for (int i = 0; i < S + (N - 1) * Cells::taps; ++i) {
      V cell = load(in + i * LANES);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const int place = i - n * Cells::taps;
        if (place >= 0 && place < S) sums[place] = Cells::step(sums[place], cell, row[n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) store(out + i * LANES, sums[i]);
}

template <class Cells, int S>
static inline void segment_any(int kernel, const float* in, int64_t row_stride, const float* taps, float* out) {
  V sums[S];
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) sums[i] = zero();
  for (int dy = 0; dy < kernel; ++dy, in += row_stride)
    for (int dx = 0; dx < kernel; dx += Cells::taps, taps += LANES) {
      V tap = load(taps);
#pragma GCC unroll 16
      for (int i = 0; i < S; ++i) sums[i] = Cells::step(sums[i], load(in + (i + dx) * LANES), tap);
    }
#pragma GCC unroll 16
  for (int i = 0; i < S; ++i) store(out + i * LANES, sums[i]);
}

template <class Cells, int S>
static inline void segment(int kernel, const float* in, int64_t row_stride, const float* taps, float* out) {
  switch (kernel) {
    case 3: return segment_of<Cells, 3, S>(in, row_stride, taps, out);
    case 5: return segment_of<Cells, 5, S>(in, row_stride, taps, out);
    case 7: return segment_of<Cells, 7, S>(in, row_stride, taps, out);
    case 9: return segment_of<Cells, 9, S>(in, row_stride, taps, out);
    default: return segment_any<Cells, S>(kernel, in, row_stride, taps, out);
  }
}

// finish(lane, row, column, count, sums): channels [lane, lane + W) of the `count` places from (row, column) on, each in a
// row of 32 floats. A channel's places come row by row. taps: of lay_out_taps.
template <class Cells, class Finish>
static void convolve(const Plane<Cells>& plane, int64_t height, int64_t width, int kernel, const float* taps,
                     const Finish& finish) {
  const int size = segment_for(width);
  const int64_t row_stride = plane.columns * LANES;
  alignas(64) float out[LONG * LANES];
  for (int64_t row = 0; row < height; ++row)
    for (int64_t column = 0; column < width; column += size)
      for (int lane = 0; lane < LANES; lane += W) {
        const float* in = plane.at(row, column) + lane;
        if (size == SHORT)
          segment<Cells, SHORT>(kernel, in, row_stride, taps + lane, out);
        else
          segment<Cells, LONG>(kernel, in, row_stride, taps + lane, out);
        finish(lane, row, column, (int)least(width - column, size), out);
      }
}

// sums[r][n] += sum over places of d(place) x(place + (r, n)): N taps of R kernel rows, channels [0, W).
template <class Cells, int N, int R>
static inline void correlate_of(const float* d, int64_t d_stride, const float* x, int64_t x_stride, int64_t height,
                                int64_t width, float* sums, int64_t tap_stride, int64_t row_taps) {
  V acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[r][n] = zero();
  for (int64_t row = 0; row < height; ++row, d += d_stride, x += x_stride)
    for (int64_t column = 0; column < width; column += Cells::taps) {
      V here = load(d + column * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
          acc[r][n] = Cells::step(acc[r][n], here, load(x + r * x_stride + (column + n) * LANES));
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
// Cell (row + dy, column + dx) of x meets place (row, column) of d's map at tap (dy, dx).
template <class Cells>
static void correlate(const Plane<Cells>& d, const Plane<Cells>& x, int64_t height, int64_t width, int kernel, float* sums,
                      int64_t tap_stride) {
  const int64_t d_stride = d.columns * LANES, x_stride = x.columns * LANES;
  const int64_t together = width < 1024 ? 1024 / width : 1;  // rows of one sum, see RowSums
  for (int lane = 0; lane < LANES; lane += W)
    for (int dx = 0; dx < kernel;) {
      const int left = kernel - dx, taps = left <= 8 ? left : (left + 1) / 2 <= 8 ? (left + 1) / 2 : 8;
      for (int dy = 0; dy < kernel;) {
        const int rows = taps <= 3 && kernel - dy >= 3 ? 3 : taps <= 6 && kernel - dy >= 2 ? 2 : 1;
        float* to = sums + (dy * kernel + dx) * tap_stride + lane;
#define CASE(N, R)                                                                                            \
  case N * 10 + R:                                                                                            \
    for (int64_t row = 0; row < height; row += together)                                                      \
      correlate_of<Cells, N, R>(d.at(d.top + row, d.left) + lane, d_stride, x.at(row + dy, dx) + lane,        \
                                x_stride, least(height - row, together), width, to, tap_stride, kernel);      \
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
