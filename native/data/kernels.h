// What is compiled once for each instruction set: three inner loops, and the table of them.
//
// Nothing of the standard library here: its templates, compiled for a newer CPU, could be linked into all.

#pragma once

#include <cstddef>
#include <cstdint>

namespace isopatch_pixels {

constexpr int kBits = 22;  // of a weight's fraction: 32 less 8 of a pixel, less 2 for negative lobes
constexpr int kRows = 4;   // rows that the horizontal pass takes at once

// One direction of scaling: output i sums weight[i * taps + t] * input[first[i] + t] over t < count[i].
struct Weights {
    int taps;
    const int* first;
    const int* count;
    const int32_t* weight;
};

// Scratch for one row of a transform. offset: the first byte each pixel comes from, -1 outside. x, y: how far
// on its way to the next pixel, 0..1; the same for each byte, and the row: 8 longer than there are bytes.
struct Places {
    int32_t* offset;
    double* x;
    double* y;
    double* x_of_byte;
    double* y_of_byte;
    uint8_t* row;
};

struct Range {
    int first, end;
};

struct Kernels {
    // Rows of 3-byte pixels, `stride` bytes apart -> rows of `to` 4-byte pixels, `out_stride` bytes apart.
    // scratch: 16 bytes for each of the `width` pixels of a row.
    void (*scale_rows)(const uint8_t* in, int64_t stride, int width, int height, int to, Weights weights,
                       uint8_t* out, int64_t out_stride, uint8_t* scratch);
    // Rows of `stride` bytes, a multiple of 16 -> `to` such rows.
    void (*scale_columns)(const uint8_t* in, int64_t stride, int to, Weights weights, uint8_t* out);
    // Bicubic affine transform of 3-byte pixels. in: with two repeated pixels on each side, so that no index
    // has to be clipped, and 16 bytes that may be read after the last. Pixels from outside are left alone.
    void (*transform)(const uint8_t* in, int width, int height, const double* a, uint8_t* out, Places places);
};

extern const Kernels plain;
#if defined(__x86_64__)
extern const Kernels avx2;
extern const Kernels avx512;
#endif

}  // namespace isopatch_pixels
