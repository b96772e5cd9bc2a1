// Operations that change colours and not places: tables, counts, saturation, sharpness. To Pillow's bit.
//
// Plain loops over bytes, which compilers vectorise; on Linux GCC makes one version for each instruction set.

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define FOR_EACH_CPU __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FOR_EACH_CPU
#endif

namespace {

// Pillow's grey, ITU-R 601 in 16 bits of fraction.
inline int grey(const uint8_t* pixel) {
    return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16;
}

// Image.blend: from a (share 0) to b (share 1) and beyond; cut off, not rounded.
inline uint8_t blended(int a, int b, float share) {
    const float value = (float)a + share * (float)(b - a);
    return (uint8_t)(value <= 0.0f ? 0.0f : value >= 255.0f ? 255.0f : value);
}

FOR_EACH_CPU void blend_bytes(const uint8_t* a, const uint8_t* b, int64_t bytes, float share, uint8_t* out) {
    for (int64_t i = 0; i < bytes; i++) out[i] = blended(a[i], b[i], share);
}

FOR_EACH_CPU void grey_bytes(const uint8_t* in, int64_t pixels, uint8_t* out) {
    for (int64_t i = 0; i < pixels; i++) {
        const uint8_t level = (uint8_t)grey(in + 3 * i);
        out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = level;
    }
}

// One row of ImageFilter.SMOOTH (3 x 3 of ones with 5 in the middle, over 13), without its first and last pixel.
FOR_EACH_CPU void smooth_row(const uint8_t* above, const uint8_t* row, const uint8_t* below, int64_t bytes,
                             uint8_t* out) {
    const float side = 1.0f / 13.0f, middle = 5.0f / 13.0f;
    for (int64_t i = 3; i < bytes - 3; i++) {
        float sum = 0.5f;
        sum += (float)below[i - 3] * side + (float)below[i] * side + (float)below[i + 3] * side;
        sum += (float)row[i - 3] * side + (float)row[i] * middle + (float)row[i + 3] * side;
        sum += (float)above[i - 3] * side + (float)above[i] * side + (float)above[i + 3] * side;
        out[i] = (uint8_t)(sum >= 255.0f ? 255.0f : sum);
    }
}

}  // namespace

extern "C" {

// out[c] = table[c][in[c]] for the three bytes c of each pixel; table: 3 x 256.
void isopatch_pixels_map(const uint8_t* in, int64_t pixels, const uint8_t* table, uint8_t* out) {
    for (int64_t i = 0; i < pixels; i++) {
        out[3 * i] = table[in[3 * i]];
        out[3 * i + 1] = table[256 + in[3 * i + 1]];
        out[3 * i + 2] = table[512 + in[3 * i + 2]];
    }
}

// How often each level occurs in each of the three channels: 3 x 256.
void isopatch_pixels_count(const uint8_t* in, int64_t pixels, int64_t* counts) {
    static thread_local int64_t parts[2][768];  // two, so that equal neighbours do not wait for each other
    std::memset(parts, 0, sizeof parts);
    for (int64_t i = 0; i < pixels; i++) {
        int64_t* part = parts[i & 1];
        part[in[3 * i]]++;
        part[256 + in[3 * i + 1]]++;
        part[512 + in[3 * i + 2]]++;
    }
    for (int i = 0; i < 768; i++) counts[i] = parts[0][i] + parts[1][i];
}

// The sum of all pixels' grey levels.
int64_t isopatch_pixels_grey_sum(const uint8_t* in, int64_t pixels) {
    int64_t sum = 0;
    for (int64_t i = 0; i < pixels; i++) sum += grey(in + 3 * i);
    return sum;
}

// ImageEnhance.Color: from grey (factor 0) to the picture (1) and beyond.
void isopatch_pixels_saturate(const uint8_t* in, int64_t pixels, float factor, uint8_t* out) {
    grey_bytes(in, pixels, out);
    blend_bytes(out, in, 3 * pixels, factor, out);
}

// ImageEnhance.Sharpness: from smooth (factor 0) to the picture (1) and beyond. `out` is not `in`.
void isopatch_pixels_sharpen(const uint8_t* in, int width, int height, float factor, uint8_t* out) {
    const int64_t bytes = (int64_t)width * 3;
    std::memcpy(out, in, (size_t)(bytes * height));  // the border is the picture's own
    if (width > 2)
        for (int y = 1; y < height - 1; y++) {
            const uint8_t* row = in + y * bytes;
            smooth_row(row - bytes, row, row + bytes, bytes, out + y * bytes);
        }
    blend_bytes(out, in, bytes * height, factor, out);
}

}  // extern "C"
