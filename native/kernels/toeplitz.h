// Depthwise convolution on AMX: of one channel, rows of the map times banded Toeplitz matrices, one for each kernel row.
//
// out(y, n) = sum over dy, w of in(y + dy, w) T(w, n), T(w, n) = taps(dy, w - n + left): the border to the left and to the
// right is what T leaves out. Its tiles overlap, so they are not stored, see Band. The kernel's gradient is a product of the
// same kind: found(dy, dx) = sum over y, w of in(y + dy, w) T(w, dx), now with T made of row y of the gradient.
//
// What T leaves out it multiplies by zero: an infinity in a row makes NaN of all columns that the row's sums reach.
#pragma once
#include "depthwise.h"
#include "tile.h"

#ifdef ISOPATCH_TILES
namespace NS {

// In the place of Singles and Pairs: planes hold one channel after another, rows of 32 bf16, zero beside the map.
struct Toeplitz {
  static constexpr int taps = 0;   // in a Border: cells are laid out in another way
  static constexpr int WIDE = 32;  // columns of a plane
  // Where it was faster: with smaller kernels sums in float are as fast, and tiles of small maps are half empty.
  static bool suits(int64_t height, int64_t width, int64_t kernel) {
    return height > WIDE / 2 && width > WIDE / 2 && width <= WIDE && kernel > 7;
  }

  struct Row {
    bf16 *to, *next;
    int64_t channel_stride;
    alignas(64) bf16 values[WIDE * W];  // of W channels, column by column
    void put(V value) {
      store(next, value);
      next += W;
    }
    void end() {
      V columns[W];
      for (int i = 0; i < W; ++i) columns[i] = pair(values + 2 * i * W);
      transpose(columns);
      for (int c = 0; c < W; ++c) store((float*)(to + c * channel_stride), columns[c]);
    }
    static V pair(const bf16* at) {
      const __m512i even = _mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i*)at));
      const __m512i odd = _mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i*)(at + W)));
      return _mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  };
};

template <>
struct Plane<Toeplitz> {
  int64_t width, top;      // the map begins at (top, 0)
  int64_t left;            // of T
  int64_t channel_stride;  // in values
  bf16* memory;

  bf16* at(int channel, int64_t row) const { return memory + channel * channel_stride + row * Toeplitz::WIDE; }
  void start(Toeplitz::Row& row, int64_t of_map, int lane) const {
    row.to = at(lane, top + of_map);
    row.channel_stride = channel_stride;
    row.next = row.values;
    for (int64_t column = width; column < Toeplitz::WIDE; ++column) store(row.values + column * W, zero());
  }
};

// The map's rows, up to whole tiles one below the other in pairs.
static inline int64_t covered(int64_t height) { return (height + 31) / 32 * 32; }

template <>
Plane<Toeplitz> plane_for<Toeplitz>(int slot, int64_t height, int64_t width, int64_t, int64_t top, int64_t left) {
  // `convolve` reads up to 14 rows beyond the covered ones, `correlate` 16 from any row of the map on. The number is odd:
  // else channels would compete for the same places of the cache.
  const int64_t rows = covered(height) + 15;
  Plane<Toeplitz> plane{width, top, left, rows * Toeplitz::WIDE, nullptr};
  const Border border{height, width, rows, Toeplitz::WIDE, top, left, Toeplitz::taps};
  plane.memory = (bf16*)bordered(slot, LANES * plane.channel_stride * (int64_t)sizeof(bf16), border);
  return plane;
}

// T(w, n) = row(w - n + left) for w < 32, zero beyond the row, as the operand of tile products: pairs of rows of T. Entry i
// is (row(30 + left - i), row(31 + left - i)); the pair of rows (w, w + 1) from column n on begins at entry 30 + n - w.
struct Band {
  static constexpr int FIRST = 30, STRIDE = -8;  // of a tile: its entry, and bytes from a pair of rows to the next one
  static constexpr int ONE = 48, TWO = 64;       // entries for one tile and for two side by side

  __m512i index[TWO / W];
  __mmask32 within[TWO / W];

  explicit Band(int64_t left) {
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int v = 0; v < TWO / W; ++v) {
      const __m512i first = _mm512_sub_epi32(_mm512_set1_epi32(30 + (int)left - v * W), count);
      const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
      index[v] = _mm512_mask_blend_epi16(0xaaaaaaaa, first, _mm512_slli_epi32(second, 16));
      within[v] = _mm512_cmplt_epu16_mask(index[v], _mm512_set1_epi16(32));
    }
  }
  // The rows of two tiles side by side, every one at a place of its own, which is loaded faster: the tile of the left
  // columns begins LEFT rows behind that of the right ones, which are its last. row: 32 bf16.
  static constexpr int ROWS = 24, LEFT = 8;
  void write_rows(__m512i row, uint32_t* to) const {
    __m512i entries[TWO / W];
#pragma GCC unroll 4
    for (int v = 0; v < TWO / W; ++v) entries[v] = _mm512_maskz_permutexvar_epi16(within[v], index[v], row);
    write_row<0>(entries, to);
  }
  template <int R>
  static inline void write_row(const __m512i* entries, uint32_t* to) {
    if constexpr (R < ROWS) {
      constexpr int first = FIRST + W - 2 * R, v = first / W;  // its entry
      if constexpr (first % W == 0)
        _mm512_store_si512(to + R * W, entries[v]);
      else
        _mm512_store_si512(to + R * W, _mm512_alignr_epi32(entries[v + 1], entries[v], first % W));
      write_row<R + 1>(entries, to);
    }
  }
  // row: 32 bf16.
  template <int ENTRIES>
  void write(__m512i row, uint32_t* entries) const {
#pragma GCC unroll 4
    for (int v = 0; v < ENTRIES / W; ++v)
      _mm512_storeu_si512(entries + v * W, _mm512_maskz_permutexvar_epi16(within[v], index[v], row));
  }
};

// For each channel and kernel row its Band's entries, not floats but pairs of bf16.
template <>
const float* lay_out_taps<Toeplitz>(const Plane<Toeplitz>& plane, const float* weight, int64_t stride, int kernel,
                                    bool turned) {
  constexpr int MOST = 15 * 16;  // taps of a channel, in whole vectors
  const int taps = kernel * kernel;
  uint32_t* entries = (uint32_t*)scratch(2, LANES * kernel * Band::TWO * (int64_t)sizeof(uint32_t));
  const Band band(plane.left);
  const __mmask32 of_row = (1u << kernel) - 1;
  bf16 rows[W][MOST];
  for (int lane = 0; lane < LANES; lane += W) {
    for (int tap = 0; tap < taps; tap += W) {
      V block[W];
      for (int i = 0; i < W; ++i)
        block[i] = tap + i < taps ? load(weight + (turned ? taps - 1 - tap - i : tap + i) * stride + lane) : zero();
      transpose(block);
      for (int c = 0; c < W; ++c) store(rows[c] + tap, block[c]);
    }
    for (int c = 0; c < W; ++c)
      for (int dy = 0; dy < kernel; ++dy)
        band.write<Band::TWO>(_mm512_maskz_loadu_epi16(of_row, rows[c] + dy * kernel),
                              entries + ((lane + c) * kernel + dy) * Band::TWO);
  }
  return (const float*)entries;
}

// GCC takes the reads of tile loads for no reads of memory.
static inline void before_tile_loads() { asm volatile("" ::: "memory"); }

// 32 rows and columns of a channel. in: its plane's first row of these; sums: rows of 32 floats.
static inline void convolve_tiles(const bf16* in, int kernel, const uint32_t* taps, float* sums) {
  clear_sums();
  for (int dy = 0; dy < kernel; ++dy, in += Toeplitz::WIDE, taps += Band::TWO)
    add_products(in, in + 16 * Toeplitz::WIDE, 64, taps + Band::FIRST, taps + Band::FIRST + 16, Band::STRIDE);
  store_sums(sums, Toeplitz::WIDE);
}

template <class Finish>
static void convolve(const Plane<Toeplitz>& plane, int64_t height, int64_t width, int kernel, const float* taps,
                     const Finish& finish) {
  const TileSession tiles;  // before whose first load all of the plane is in memory
  (void)tiles;
  const int64_t rows = covered(height), stride = rows * Toeplitz::WIDE + 16;  // again not a power of two
  float* sums = (float*)scratch(3, W * stride * (int64_t)sizeof(float));
  const uint32_t* entries = (const uint32_t*)taps;
  alignas(64) float out[W * LANES];
  for (int lane = 0; lane < LANES; lane += W) {
    for (int c = 0; c < W; ++c, entries += kernel * Band::TWO)
      for (int64_t row = 0; row < rows; row += 32)
        convolve_tiles(plane.at(lane + c, row), kernel, entries, sums + c * stride + row * Toeplitz::WIDE);
    for (int64_t row = 0; row < height; ++row)
      for (int64_t column = 0; column < width; column += W) {
        V block[W];
        for (int c = 0; c < W; ++c) block[c] = load(sums + c * stride + row * Toeplitz::WIDE + column);
        transpose(block);
        for (int i = 0; i < W; ++i) store(out + i * LANES, block[i]);
        finish(lane, row, column, (int)least(width - column, W), out);
      }
  }
}

// found (16 x 16) = for each tap of one channel the sum over the map. d: its gradient's first row; x: its input's plane.
static inline void correlate_channel(const bf16* d, const bf16* x, int64_t height, const Band& band, uint32_t* entries,
                                     float* found) {
  for (int64_t row = 0; row < height; ++row)
    band.write<Band::ONE>(_mm512_loadu_si512(d + row * Toeplitz::WIDE), entries + row * Band::ONE);
  before_tile_loads();
  tile_clear(0);
  tile_clear(1);
  tile_clear(2);
  tile_clear(3);
  entries += Band::FIRST;
  int64_t row = 0;
  for (; row + 4 <= height; row += 4, x += 4 * Toeplitz::WIDE, entries += 4 * Band::ONE) {
    tile_load(4, x, 64);
    tile_load(6, entries, Band::STRIDE);
    tile_product(0, 4, 6);
    tile_load(5, x + Toeplitz::WIDE, 64);
    tile_load(7, entries + Band::ONE, Band::STRIDE);
    tile_product(1, 5, 7);
    tile_load(4, x + 2 * Toeplitz::WIDE, 64);
    tile_load(6, entries + 2 * Band::ONE, Band::STRIDE);
    tile_product(2, 4, 6);
    tile_load(5, x + 3 * Toeplitz::WIDE, 64);
    tile_load(7, entries + 3 * Band::ONE, Band::STRIDE);
    tile_product(3, 5, 7);
  }
  for (; row < height; ++row, x += Toeplitz::WIDE, entries += Band::ONE) {
    tile_load(4, x, 64);
    tile_load(6, entries, Band::STRIDE);
    tile_product(0, 4, 6);
  }
  alignas(64) float each[4][W * W];
  tile_store(0, each[0], 64);
  tile_store(1, each[1], 64);
  tile_store(2, each[2], 64);
  tile_store(3, each[3], 64);
  for (int i = 0; i < W * W; i += W)
    store(found + i, (load(each[0] + i) + load(each[1] + i)) + (load(each[2] + i) + load(each[3] + i)));
}

static void correlate(const Plane<Toeplitz>& d, const Plane<Toeplitz>& x, int64_t height, int64_t, int kernel, float* sums,
                      int64_t tap_stride) {
  const TileSession tiles;
  (void)tiles;
  const Band band(x.left);
  uint32_t* entries = (uint32_t*)scratch(4, height * Band::ONE * (int64_t)sizeof(uint32_t));
  alignas(64) float found[W][W * W + W];  // channels not a power of two apart
  for (int lane = 0; lane < LANES; lane += W) {
    for (int c = 0; c < W; ++c)
      correlate_channel(d.at(lane + c, d.top), x.at(lane + c, 0), height, band, entries, found[c]);
    for (int dy = 0; dy < kernel; ++dy) {
      V block[W];
      for (int c = 0; c < W; ++c) block[c] = load(found[c] + dy * W);
      transpose(block);
      for (int dx = 0; dx < kernel; ++dx) add(sums + (dy * kernel + dx) * tap_stride + lane, block[dx]);
    }
  }
}

}  // namespace NS
#endif

namespace NS {

// Calls `run` with a value of the Cells that suit a pass over maps stored as T.
template <class T, class Pass, class Run>
static inline void in_cells(const Pass& pass, const Run& run) {
#ifdef ISOPATCH_TILES
  if constexpr (sizeof(T) == 2)
    if (Toeplitz::suits(pass.height, pass.width, pass.kernel)) return run(Toeplitz{});
#endif
  (void)pass;
  run(typename CellsOf<T>::type{});
}

}  // namespace NS
