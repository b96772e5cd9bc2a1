// The inner loops. Compiled for each instruction set, with KERNELS naming the table that is filled.

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

typedef double Doubles8 __attribute__((vector_size(64)));

namespace isopatch_pixels {
namespace {

// Sixteen sums of weighted bytes. Intrinsics, because GCC's vector conversions from bytes go lane by lane.
#if defined(__AVX512F__)
struct Sums {
    __m512i lanes = _mm512_set1_epi32(1 << (kBits - 1));

    INLINE_MEMBER void add(const uint8_t* place, int32_t weight) {
        const __m512i levels = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)place));
        lanes = _mm512_add_epi32(lanes, _mm512_mullo_epi32(levels, _mm512_set1_epi32(weight)));
    }
    INLINE_MEMBER void store(uint8_t* place) const {
        const __m512i levels = _mm512_max_epi32(_mm512_srai_epi32(lanes, kBits), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i*)place, _mm512_cvtusepi32_epi8(levels));
    }
};
#elif defined(__AVX2__)
struct Sums {
    __m256i low = _mm256_set1_epi32(1 << (kBits - 1)), high = low;

    INLINE_MEMBER void add(const uint8_t* place, int32_t weight) {
        const __m128i bytes = _mm_loadu_si128((const __m128i*)place);
        const __m256i factor = _mm256_set1_epi32(weight);
        low = _mm256_add_epi32(low, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), factor));
        high = _mm256_add_epi32(
            high, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), factor));
    }
    INLINE_MEMBER void store(uint8_t* place) const {
        const __m256i pairs = _mm256_packs_epi32(_mm256_srai_epi32(low, kBits), _mm256_srai_epi32(high, kBits));
        const __m256i words = _mm256_permute4x64_epi64(pairs, 0xd8);  // packing works within halves
        _mm_storeu_si128((__m128i*)place, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                           _mm256_extracti128_si256(words, 1)));
    }
};
#else
struct Sums {
    int32_t lanes[16];

    Sums() {
        for (int i = 0; i < 16; i++) lanes[i] = 1 << (kBits - 1);
    }
    INLINE_MEMBER void add(const uint8_t* place, int32_t weight) {
        for (int i = 0; i < 16; i++) lanes[i] += place[i] * weight;
    }
    INLINE_MEMBER void store(uint8_t* place) const {
        for (int i = 0; i < 16; i++) {
            const int32_t level = lanes[i] >> kBits;
            place[i] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
        }
    }
};
#endif

INLINE Doubles8 levels_at(const uint8_t* place) {
#if defined(__AVX512F__)
    return (Doubles8)_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)place)));
#else
    Doubles8 lanes;
#if defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64((const __m128i*)place);
    const __m256d low = _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(bytes));
    const __m256d high = _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_srli_si128(bytes, 4)));
    __builtin_memcpy(&lanes, &low, 32);
    __builtin_memcpy((char*)&lanes + 32, &high, 32);
#else
    for (int i = 0; i < 8; i++) lanes[i] = place[i];
#endif
    return lanes;
#endif
}

INLINE void store_truncated(Doubles8 values, uint8_t* place) {
    const Doubles8 black = {};
    const Doubles8 white = black + 255;
    values = values > 0 ? values : black;
    values = values < 255 ? values : white;
#if defined(__AVX512F__)
    _mm_storel_epi64((__m128i*)place, _mm256_cvtepi32_epi8(_mm512_cvttpd_epi32((__m512d)values)));
#elif defined(__AVX2__)
    __m256d low, high;
    __builtin_memcpy(&low, &values, 32);
    __builtin_memcpy(&high, (const char*)&values + 32, 32);
    const __m128i words = _mm_packs_epi32(_mm256_cvttpd_epi32(low), _mm256_cvttpd_epi32(high));
    _mm_storel_epi64((__m128i*)place, _mm_packus_epi16(words, words));
#else
    for (int i = 0; i < 8; i++) place[i] = (uint8_t)values[i];
#endif
}

void scale_rows(const uint8_t* in, int64_t stride, int width, int height, int to, Weights weights, uint8_t* out,
                int64_t out_stride, uint8_t* scratch) {
    for (int top = 0; top < height; top += kRows) {
        // Pixel x of the four rows side by side: one load of 16 bytes serves all of them.
        const int rows = height - top < kRows ? height - top : kRows;
        for (int r = 0; r < rows; r++) {
            const uint8_t* row = in + (top + r) * stride;
            uint8_t* place = scratch + 4 * r;
            for (int x = 0; x < width - 1; x++) __builtin_memcpy(place + 16 * x, row + 3 * x, 4);
            __builtin_memcpy(place + 16 * (width - 1), row + 3 * (width - 1), 3);  // 4 would end beyond the row
        }
        for (int x = 0; x < to; x++) {
            const int32_t* weight = weights.weight + (int64_t)x * weights.taps;
            const uint8_t* first = scratch + 16 * (int64_t)weights.first[x];
            const int count = weights.count[x];
            Sums sums;
            for (int t = 0; t < count; t++) sums.add(first + 16 * t, weight[t]);
            uint8_t pixels[16];
            sums.store(pixels);
            uint8_t* target = out + top * out_stride + 4 * x;
            for (int r = 0; r < rows; r++) __builtin_memcpy(target + r * out_stride, pixels + 4 * r, 4);
        }
    }
}

void scale_columns(const uint8_t* in, int64_t stride, int to, Weights weights, uint8_t* out) {
    for (int y = 0; y < to; y++) {
        const int32_t* weight = weights.weight + (int64_t)y * weights.taps;
        const uint8_t* first = in + weights.first[y] * stride;
        const int count = weights.count[y];
        for (int64_t x = 0; x < stride; x += 16) {
            Sums sums;
            for (int t = 0; t < count; t++) sums.add(first + t * stride + x, weight[t]);
            sums.store(out + y * stride + x);
        }
    }
}

// The cubic through four values at -1, 0, 1, 2, in the order of operations of Pillow's.
INLINE Doubles8 between(Doubles8 a, Doubles8 b, Doubles8 c, Doubles8 d, Doubles8 t) {
    const Doubles8 p2 = c - a;
    const Doubles8 p3 = 2 * (a - b) + c - d;
    const Doubles8 p4 = b - a - c + d;
    return b + t * (p2 + t * (p3 + t * p4));
}

INLINE Doubles8 along(const uint8_t* place, int64_t step, Doubles8 t) {
    return between(levels_at(place), levels_at(place + step), levels_at(place + 2 * step),
                   levels_at(place + 3 * step), t);
}

INLINE Doubles8 eight_of(const double* place) {
    Doubles8 values;
    __builtin_memcpy(&values, place, sizeof values);
    return values;
}

INLINE double floor_of(double v) {
    const double whole = (double)(int)v;
    return whole - (v < whole);
}

// Where the pixels of an output row come from. Return the first and the last + 1 that come from inside.
Range locate(const double* a, int y, int width, int height, int line, Places places) {
    const double y_out = y + 0.5, right = width, bottom = height;
    const double a0 = a[0], a2 = a[2], a3 = a[3], a5 = a[5], from_x = a[1] * y_out, from_y = a[4] * y_out;
    double* __restrict to_x = places.x;
    double* __restrict to_y = places.y;
    int32_t* __restrict offset = places.offset;
    for (int x = 0; x < width; x++) {
        const double x_out = x + 0.5;
        const double x_in = a0 * x_out + from_x + a2;
        const double y_in = a3 * x_out + from_y + a5;
        const int inside = (x_in >= 0) & (x_in < right) & (y_in >= 0) & (y_in < bottom);
        const double left = x_in - 0.5, up = y_in - 0.5;  // outside, whatever follows from these is not used
        const double column = floor_of(left), row = floor_of(up);
        to_x[x] = left - column;
        to_y[x] = up - row;
        // The first of 4 x 4 pixels is one up and one to the left; two repeated ones surround the picture.
        const int first = ((int)row + 1) * line + ((int)column + 1) * 3;
        offset[x] = inside ? first : -1;
    }
    Range range = {0, width};
    while (range.first < width && places.offset[range.first] < 0) range.first++;
    while (range.end > range.first && places.offset[range.end - 1] < 0) range.end--;
    return range;
}

// One value for each pixel -> for each byte, and one more at the end.
INLINE void spread(const double* in, int width, double* out) {
    for (int x = 0; x < width; x++) {
#if defined(__AVX2__)
        _mm256_storeu_pd(out + 3 * x, _mm256_set1_pd(in[x]));
#else
        out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = in[x];
#endif
    }
}

void transform(const uint8_t* in, int width, int height, const double* a, uint8_t* out, Places places) {
    const int line = (width + 4) * 3;
    const bool rows_stay = a[3] == 0 && a[4] == 1 && a[5] == 0;     // then y is 0: one row is enough
    const bool columns_stay = a[0] == 1 && a[1] == 0 && a[2] == 0;  // then x is 0
    for (int y = 0; y < height; y++) {
        const Range range = locate(a, y, width, height, line, places);
        if (rows_stay || !columns_stay) spread(places.x, width, places.x_of_byte);
        if (!rows_stay) spread(places.y, width, places.y_of_byte);
        int x = range.first;
        while (x < range.end) {
            int next = x + 1;  // the end of a run of pixels that are neighbours in both pictures
            while (next < range.end && places.offset[next] == places.offset[next - 1] + 3) next++;
            const uint8_t* source = in + places.offset[x];
            for (int i = 0; i < 3 * (next - x); i += 8) {  // beyond the run's end: written again by the next
                const uint8_t* place = source + i;
                const Doubles8 dx = eight_of(places.x_of_byte + 3 * x + i);
                const Doubles8 dy = eight_of(places.y_of_byte + 3 * x + i);
                Doubles8 values;
                if (rows_stay)
                    values = along(place + line, 3, dx);
                else if (columns_stay)
                    values = along(place + 3, line, dy);
                else
                    values = between(along(place, 3, dx), along(place + line, 3, dx),
                                     along(place + 2 * line, 3, dx), along(place + 3 * line, 3, dx), dy);
                store_truncated(values, places.row + 3 * x + i);
            }
            x = next;
        }
        if (range.first < range.end)
            __builtin_memcpy(out + ((int64_t)y * width + range.first) * 3, places.row + 3 * range.first,
                             3 * (range.end - range.first));
    }
}

}  // namespace

extern const Kernels KERNELS = {scale_rows, scale_columns, transform};

}  // namespace isopatch_pixels
