// The same products on AMX: 32 rows by 32 columns in four tiles, pairs of bf16, sums in float.
//
// A tile holds 16 rows of 64 bytes: of A 16 rows and 32 values of the inner dimension, of B 16 steps and 16 columns.
#pragma once
#ifndef ISOPATCH_EMULATED_TILES
#include <immintrin.h>
#endif

namespace NS {

#ifdef ISOPATCH_EMULATED_TILES

// The instructions in software, so that the code around them runs in tests on CPUs without AMX. As there, a load without a
// TileSession ends the process; that the compiler must not move writes behind loads does not show here.
struct Tile {
  char bytes[16][64];
};
static thread_local Tile emulated[8];
static thread_local bool session = false;

static inline void tile_load(int t, const void* from, int64_t stride) {
  if (!session) __builtin_trap();
  for (int r = 0; r < 16; ++r) std::memcpy(emulated[t].bytes[r], (const char*)from + r * stride, 64);
}
static inline void tile_store(int t, void* to, int64_t stride) {
  for (int r = 0; r < 16; ++r) std::memcpy((char*)to + r * stride, emulated[t].bytes[r], 64);
}
static inline void tile_clear(int t) { std::memset(&emulated[t], 0, sizeof(Tile)); }
static inline void tile_product(int sum, int a, int b) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      float total;
      std::memcpy(&total, emulated[sum].bytes[row] + 4 * column, 4);
      for (int pair = 0; pair < 16; ++pair)
        for (int half = 0; half < 2; ++half) {
          bf16 x, y;
          std::memcpy(&x, emulated[a].bytes[row] + 4 * pair + 2 * half, 2);
          std::memcpy(&y, emulated[b].bytes[pair] + 4 * column + 2 * half, 2);
          total += to_float(x) * to_float(y);
        }
      std::memcpy(emulated[sum].bytes[row] + 4 * column, &total, 4);
    }
}
struct TileSession {
  TileSession() { session = true; }
  ~TileSession() { session = false; }
};

#else

#define tile_load _tile_loadd
#define tile_store _tile_stored
#define tile_clear _tile_zero
#define tile_product _tile_dpbf16ps

// Tiles are 16 x 64 bytes while this lives. Others on this thread (PyTorch) set them as they need them.
struct TileSession {
  TileSession() {
    struct __attribute__((packed, aligned(64))) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("" ::"r"(&config) : "memory");  // GCC 12 does not know that the instruction reads it
    _tile_loadconfig(&config);
  }
  ~TileSession() { _tile_release(); }
};

#endif

// Sums of 32 x 32 in tiles 0 to 3: those of the upper 16 rows, then of the lower ones.
static inline void clear_sums() {
  tile_clear(0);
  tile_clear(1);
  tile_clear(2);
  tile_clear(3);
}
// Adds 32 rows of A times 32 columns of B, strides in bytes. between(i): what the vector units can do after product i.
template <class Between>
static inline void add_products(const void* upper, const void* lower, int64_t a_stride, const void* left, const void* right,
                                int64_t b_stride, const Between& between) {
  tile_load(4, upper, a_stride);
  tile_load(6, left, b_stride);
  tile_load(7, right, b_stride);
  tile_product(0, 4, 6);
  between(0);
  tile_load(5, lower, a_stride);
  tile_product(1, 4, 7);
  between(1);
  tile_product(2, 5, 6);
  between(2);
  tile_product(3, 5, 7);
  between(3);
}
static inline void add_products(const void* upper, const void* lower, int64_t a_stride, const void* left, const void* right,
                                int64_t b_stride) {
  add_products(upper, lower, a_stride, left, right, b_stride, [](int) {});
}
// To rows of `stride` floats.
static inline void store_sums(float* to, int64_t stride) {
  tile_store(0, to, stride * 4);
  tile_store(1, to + 16, stride * 4);
  tile_store(2, to + 16 * stride, stride * 4);
  tile_store(3, to + 16 * stride + 16, stride * 4);
}

// acc (32 x PANEL) = A B; rows beyond those wanted are computed from what lies there.
static inline void tile_by_amx(const char* a, int64_t a_stride, const char* b, int64_t b_stride, int steps, float* acc) {
  for (int column = 0; column < PANEL; column += 32) {
    clear_sums();
    const char* right = b + column * 4;
    for (int s = 0; s < steps; s += 16, right += 16 * b_stride)
      add_products(a + s * 4, a + 16 * a_stride + s * 4, a_stride, right, right + 64, b_stride);
    store_sums(acc + column, PANEL);
  }
}

}  // namespace NS
