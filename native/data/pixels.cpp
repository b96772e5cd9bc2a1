// Pixel work of the training path: cut and scale, affine transform, normalise. A plain C interface.
//
// Results are Pillow's to the bit, so that a picture does not depend on whether this library was built: the
// definitions (filters, rounding, order of the passes) are those of Pillow 11 and 12, the code is not. Pictures
// are RGB, 8 bit: rows of pixels of 3 bytes. Inside, a pixel takes 4 bytes, which make a vector of four lanes.
// Build without contraction of a * b + c into one rounding: Pillow's binaries round twice.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace {

using isopatch_pixels::kBits;
using isopatch_pixels::Kernels;
using isopatch_pixels::Weights;

// Instruction sets, best last.
enum Level { kPlain = 0, kAvx2 = 1, kAvx512 = 2 };

Level best_level() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return kAvx512;
    if (__builtin_cpu_supports("avx2")) return kAvx2;
#endif
    return kPlain;
}

std::atomic<int> level{best_level()};

const Kernels& kernels() {
#if defined(__x86_64__)
    if (level == kAvx512) return isopatch_pixels::avx512;
    if (level == kAvx2) return isopatch_pixels::avx2;
#endif
    return isopatch_pixels::plain;
}

double cubic(double x) {  // Keys 1981 with a = -0.5
    x = std::fabs(x);
    if (x < 1.0) return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0.0;
}

double linear(double x) {
    x = std::fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

// Weights and the memory they are in.
struct Filter {
    std::vector<int> first, count;
    std::vector<int32_t> weight;
    std::vector<double> row;

    // From `from` input pixels to `to` output pixels; where the picture shrinks, the filter is as much wider.
    Weights make(int from, int to, bool is_cubic) {
        const double scale = (double)from / to;
        const double stretch = std::max(scale, 1.0);
        const double reach = (is_cubic ? 2.0 : 1.0) * stretch;
        const double shrink = 1.0 / stretch;
        const int taps = (int)std::ceil(reach) * 2 + 1;
        first.resize(to);
        count.resize(to);
        weight.assign((size_t)to * taps, 0);
        row.resize(taps);
        for (int i = 0; i < to; i++) {
            const double center = (i + 0.5) * scale;
            const int begin = std::max((int)(center - reach + 0.5), 0);
            const int number = std::min((int)(center + reach + 0.5), from) - begin;
            double total = 0.0;
            for (int t = 0; t < number; t++) {
                const double x = (t + begin - center + 0.5) * shrink;
                row[t] = is_cubic ? cubic(x) : linear(x);
                total += row[t];
            }
            for (int t = 0; t < number; t++) {
                const double share = total != 0.0 ? row[t] / total : row[t];
                weight[(size_t)i * taps + t] = (int32_t)(share * (1 << kBits) + (share < 0 ? -0.5 : 0.5));
            }
            first[i] = begin;
            count[i] = number;
        }
        return Weights{taps, first.data(), count.data(), weight.data()};
    }
};

// 3-byte pixels -> 4-byte pixels; a load of 4 at the last one would end beyond the picture.
void spread_pixels(const uint8_t* in, int width, uint8_t* out) {
    for (int x = 0; x < width - 1; x++) std::memcpy(out + 4 * x, in + 3 * x, 4);
    std::memcpy(out + 4 * (width - 1), in + 3 * (width - 1), 3);
}

void pack_pixels(const uint8_t* in, int width, bool mirror, uint8_t* out) {
    if (mirror) {
        for (int x = 0; x < width; x++) std::memcpy(out + 3 * x, in + 4 * (width - 1 - x), 3);
        return;
    }
    for (int x = 0; x < width - 1; x++) std::memcpy(out + 3 * x, in + 4 * x, 4);
    std::memcpy(out + 3 * (width - 1), in + 4 * (width - 1), 3);
}

}  // namespace

extern "C" {

// Raised when a signature below changes.
int isopatch_pixels_version() { return 1; }

// Use at most this instruction set (0 plain, 1 AVX2, 2 AVX-512) and return the one in use; results are equal.
int isopatch_pixels_use(int at_most) {
    level = std::min<int>(at_most, best_level());
    return level;
}

// Scale the width x height pixels at `in` (rows `stride` bytes apart) to to_width x to_height, antialiased,
// and mirror them if asked. is_cubic: 1 bicubic, 0 bilinear.
void isopatch_pixels_scale(const uint8_t* in, int64_t stride, int width, int height, uint8_t* out,
                           int to_width, int to_height, int is_cubic, int mirror) {
    static thread_local Filter across, down;
    static thread_local std::vector<uint8_t> scratch, wide, tall;
    const int64_t line = (int64_t)(to_width + 3) / 4 * 16;
    wide.resize((size_t)height * line);
    if (width == to_width) {
        for (int y = 0; y < height; y++) spread_pixels(in + y * stride, width, &wide[(size_t)(y * line)]);
    } else {
        scratch.resize((size_t)width * 16);
        kernels().scale_rows(in, stride, width, height, to_width, across.make(width, to_width, is_cubic != 0),
                             wide.data(), line, scratch.data());
    }
    const uint8_t* rows = wide.data();
    if (height != to_height) {
        tall.resize((size_t)to_height * line);
        kernels().scale_columns(rows, line, to_height, down.make(height, to_height, is_cubic != 0), tall.data());
        rows = tall.data();
    }
    for (int y = 0; y < to_height; y++)
        pack_pixels(rows + y * line, to_width, mirror != 0, out + (size_t)y * to_width * 3);
}

// Pillow's transform(size, AFFINE, a, BICUBIC, fillcolor=fill) to a picture of the same size; `out` is not `in`.
void isopatch_pixels_affine(const uint8_t* in, int width, int height, const double* a, const uint8_t* fill,
                            uint8_t* out) {
    static thread_local std::vector<uint8_t> padded, row;
    static thread_local std::vector<int32_t> offset;
    static thread_local std::vector<double> x, y, x_of_byte, y_of_byte;
    for (int i = 0; i < width; i++) std::memcpy(out + 3 * i, fill, 3);
    for (int i = 1; i < height; i++) std::memcpy(out + (size_t)i * width * 3, out, (size_t)width * 3);
    const size_t line = (size_t)(width + 4) * 3;
    padded.resize((size_t)(height + 4) * line + 16);
    for (int r = -2; r < height + 2; r++) {
        const uint8_t* source = in + (size_t)std::clamp(r, 0, height - 1) * width * 3;
        uint8_t* target = &padded[(size_t)(r + 2) * line];
        std::memcpy(target + 6, source, (size_t)width * 3);
        for (int i = 0; i < 2; i++) {
            std::memcpy(target + 3 * i, source, 3);
            std::memcpy(target + line - 3 * (i + 1), source + (size_t)(width - 1) * 3, 3);
        }
    }
    offset.resize(width);
    for (auto* place : {&x, &y, &x_of_byte, &y_of_byte}) place->resize((size_t)width * 3 + 8);
    row.resize((size_t)width * 3 + 8);
    const isopatch_pixels::Places places = {offset.data(),    x.data(),         y.data(),
                                            x_of_byte.data(), y_of_byte.data(), row.data()};
    kernels().transform(padded.data(), width, height, a, out, places);
}

// (pixels, 3) bytes -> (3, pixels) floats through a table of 3 x 256: a byte has that many results only.
void isopatch_pixels_look_up(const uint8_t* in, int64_t pixels, const float* table, float* out) {
    float* red = out;
    float* green = out + pixels;
    float* blue = out + 2 * pixels;
    for (int64_t i = 0; i < pixels; i++) {
        red[i] = table[in[3 * i]];
        green[i] = table[256 + in[3 * i + 1]];
        blue[i] = table[512 + in[3 * i + 2]];
    }
}

}  // extern "C"
