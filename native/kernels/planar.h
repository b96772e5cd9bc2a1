// ConvMixer blocks for inference on AMX, one picture after another, in a layout in which both steps are tile products.
//
// A map lies row by row, in each row channel by channel, in each channel 32 columns. The depthwise step has 16 map rows as
// its first operand and Toeplitz matrices as its second (see toeplitz.h); the 1x1 step has weights as its first and a map
// row's columns as its second, which are pairs of channels: so the depthwise step leaves them. Nothing changes its layout
// between the blocks, and a picture goes through all of them before the next one comes.
#pragma once
#include "convmixer.h"

#ifdef ISOPATCH_TILES
namespace NS {

struct Planar {
  static constexpr int WIDE = Toeplitz::WIDE, HALVES = WIDE / W;

  int64_t height, width, channels, top;  // the map begins at row `top` of x
  int64_t row_stride, half_stride;       // in values; odd numbers of cache lines, so that rows do not compete for places
  bf16* x;                               // zero beside the map
  bf16* pairs;                           // for each row and half of its columns: pairs of channels, columns side by side

  bf16* x_at(int64_t row, int64_t channel) const { return x + row * row_stride + channel * WIDE; }
  bf16* pairs_at(int64_t row, int64_t half, int64_t channel) const {
    return pairs + (row * HALVES + half) * half_stride + channel * W;
  }
};

// The calling thread's.
static Planar planar_for(const ConvmixerInfer& m) {
  const int64_t rows = covered(m.height) + m.kernel - 1, line = 64 / (int64_t)sizeof(bf16);
  Planar p{m.height, m.width, m.channels, m.pad_top, 0, 0, nullptr, nullptr};
  p.row_stride = m.channels * Planar::WIDE + line;
  p.half_stride = m.channels * W + line;
  const Border border{m.height, m.width, rows, m.channels, m.pad_top, 0, Toeplitz::taps};
  p.x = (bf16*)bordered(2, rows * p.row_stride * (int64_t)sizeof(bf16), border);
  p.pairs = (bf16*)scratch(12, m.height * Planar::HALVES * p.half_stride * (int64_t)sizeof(bf16));
  return p;
}

// 16 x 16 values between rows of `tokens` (columns of the map) and rows of x (its channels).
static void planar_in(const Planar& p, const bf16* tokens) {
  for (int64_t row = 0; row < p.height; ++row)
    for (int64_t channel = 0; channel < p.channels; channel += W)
      for (int64_t column = 0; column < p.width; column += W) {
        V block[W];
        for (int i = 0; i < W; ++i)
          block[i] = column + i < p.width ? load(tokens + (row * p.width + column + i) * p.channels + channel) : zero();
        transpose(block);
        for (int i = 0; i < W; ++i) store(p.x_at(p.top + row, channel + i) + column, block[i]);
      }
}
static void planar_out(const Planar& p, bf16* tokens) {
  for (int64_t row = 0; row < p.height; ++row)
    for (int64_t channel = 0; channel < p.channels; channel += W)
      for (int64_t column = 0; column < p.width; column += W) {
        V block[W];
        for (int i = 0; i < W; ++i) block[i] = load(p.x_at(p.top + row, channel + i) + column);
        transpose(block);
        for (int i = 0; i < W && column + i < p.width; ++i)
          store(tokens + (row * p.width + column + i) * p.channels + channel, block[i]);
      }
}

// What tile products have found waits in memory, and is finished in pieces between the products of what comes next: the
// vector units have their work while the tiles have theirs.

// Two channels: y = x + norm(act(sums)), as pairs. A piece is half a row of the map.
template <Act A>
struct DepthwiseEnd {
  const ConvmixerBlock b;
  const Planar p;
  const int64_t sums_size;
  const float* sums = nullptr;  // of the channels, one behind the other
  int64_t channel = 0, next = 0, end = 0;

  void some(int64_t pieces) {
    for (const int64_t stop = least(end, next + pieces); next < stop; ++next) {
      const int64_t row = next / Planar::HALVES, half = next % Planar::HALVES;
      V both[2];
      for (int j = 0; j < 2; ++j) {
        const int64_t c = channel + j;
        const V u = load(sums + j * sums_size + row * Planar::WIDE + half * W) + set1(b.depthwise_bias[c]);
        const V a = fma(activate<A, bf16>(u), set1(b.scale1[c]), set1(b.shift1[c]));
        both[j] = load(p.x_at(p.top + row, c) + half * W) + a;
      }
      soon_written(p.pairs_at(row, half, channel + 2));
      store((float*)p.pairs_at(row, half, channel), pairs(both[0], both[1]));
    }
  }
};

// Channels [first, last), even numbers: y = x + norm(act(depthwise(x))), as pairs. A step is a kernel row of a channel; the
// next step's Toeplitz tiles are written in it, since what is loaded into tiles soon after it is written is waited for.
template <Act A>
static void planar_depthwise(const ConvmixerInfer& m, const ConvmixerBlock& b, const Planar& p, int64_t first,
                             int64_t last) {
  const TileSession session;
  (void)session;
  const Band band(m.pad_left);
  const int kernel = (int)m.kernel;
  const int64_t rows = covered(m.height), size = rows * Planar::WIDE, halves = m.height * Planar::HALVES;
  const int64_t steps = 2 * (rows / 32) * kernel, pieces = (halves + steps - 1) / steps;
  float* sums = (float*)scratch(3, 4 * size * (int64_t)sizeof(float));
  alignas(64) uint32_t bands[2][Band::ROWS * W];
  int now = 0;
  const int64_t fetched = (p.top + m.height + kernel - 1) / kernel;  // rows of a later channel, in each step
  const auto lay_out = [&](int64_t channel, int dy, uint32_t* to) {
    const bf16* row = (const bf16*)b.taps + (channel * kernel + dy) * W;
    band.write_rows(_mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i*)row)), to);
  };
  DepthwiseEnd<A> end{b, p, size};
  lay_out(first, 0, bands[now]);
  for (int64_t channel = first; channel < last; ++channel) {
    float* found = sums + channel % 4 * size;
    for (int64_t row = 0; row < rows; row += 32) {
      clear_sums();
      const bf16* in = p.x_at(row, channel);
      for (int dy = 0; dy < kernel; ++dy, in += p.row_stride, now ^= 1) {
        before_tile_loads();
        const bool more = dy + 1 < kernel;
        const int64_t next = more || row + 32 < rows ? channel : channel + 1;
        add_products(in, in + 16 * p.row_stride, p.row_stride * 2, bands[now] + Band::LEFT * W, bands[now], 64, [&](int i) {
          end.some((pieces + 3 - i) / 4);
          if (i == 2 && next < last) lay_out(next, more ? dy + 1 : 0, bands[now ^ 1]);
          if (i == 3)
            for (int64_t at = dy * fetched; at < least(p.top + m.height, (dy + 1) * fetched); ++at)
              soon(p.x_at(at, channel + 2));
        });
      }
      store_sums(found + row * Planar::WIDE, Planar::WIDE);
    }
    if (channel % 2) end.sums = found - size, end.channel = channel - 1, end.next = 0, end.end = halves;
  }
  end.some(halves);
}

// 32 channels of a row: x = norm(act(sums + bias)). A piece is a channel.
template <Act A>
struct PointwiseEnd {
  const ConvmixerBlock b;
  const Planar p;
  const __mmask32 within;  // the map's columns
  const float* sums = nullptr;
  int64_t row = 0, channel = 0, next = 0, end = 0;

  void some(int64_t pieces) {
    for (const int64_t stop = least(end, next + pieces); next < stop; ++next) {
      const int64_t c = channel + next;
      const V bias = set1(b.pointwise_bias[c]), scale = set1(b.scale2[c]), shift = set1(b.shift2[c]);
      const float* of = sums + next * Planar::WIDE;
      const V left = fma(activate<A, bf16>(load(of) + bias), scale, shift);
      const V right = fma(activate<A, bf16>(load(of + W) + bias), scale, shift);
      const __m512i line = (__m512i)_mm512_cvtne2ps_pbh(right, left);
      _mm512_store_si512(p.x_at(p.top + row, c), _mm512_maskz_mov_epi16(within, line));
    }
  }
};

// Rows [first, last) of the map: x = norm(act(W y + bias)).
template <Act A>
static void planar_pointwise(const ConvmixerInfer& m, const ConvmixerBlock& b, const Planar& p, int64_t first,
                             int64_t last) {
  const TileSession session;
  (void)session;
  constexpr int64_t TILE = 512;  // values
  const __mmask32 within = m.width == Planar::WIDE ? ~0u : (1u << m.width) - 1;
  const int64_t steps = m.channels / 32, pieces = (32 + steps - 1) / steps;
  const int64_t ahead = (32 + last - first - 1) / (last - first);  // lines of the next weights, fetched in each step
  alignas(64) float sums[2][32 * Planar::WIDE];
  int now = 0;
  PointwiseEnd<A> end{b, p, within};
  for (int64_t channel = 0; channel < m.channels; channel += 32)
    for (int64_t row = first; row < last; ++row, now ^= 1) {
      const bf16 *weights = (const bf16*)b.matrix + channel * m.channels;
      const bf16 *left = p.pairs_at(row, 0, 0), *right = p.pairs_at(row, 1, 0);
      const bf16* later = weights + 32 * m.channels + (row - first) * ahead * steps * 32;
      for (int i = 0; i < 32; ++i) soon_written(p.x_at(p.top + row, channel + i));
      clear_sums();
      for (int64_t step = 0; step < steps; ++step, weights += 2 * TILE, left += TILE, right += TILE) {
        add_products(weights, weights + TILE, 64, left, right, 64, [&](int i) { end.some((pieces + 3 - i) / 4); });
        for (int64_t i = 0; i < ahead; ++i, later += 32) soon_second(later);
      }
      store_sums(sums[now], Planar::WIDE);
      end.sums = sums[now], end.row = row, end.channel = channel, end.next = 0, end.end = 32;
    }
  end.some(32);
}

template <Act A>
static void convmixer_infer(const ConvmixerInfer& m, int threads) {
  const int64_t size = m.height * m.width * m.channels;
  const bf16* in = (const bf16*)m.in;
  bf16* out = (bf16*)m.out;
  constexpr int64_t KEPT = 3 << 18;  // bytes of pairs that are to stay in the second cache while all weights meet them
  const int64_t together = least(m.height, KEPT / (Planar::HALVES * m.channels * W * (int64_t)sizeof(bf16)) + 1);
  const auto picture = [&](int64_t image) {
    const Planar p = planar_for(m);
    planar_in(p, in + image * size);
    for (int64_t block = 0; block < m.depth; ++block) {
      planar_depthwise<A>(m, m.blocks[block], p, 0, m.channels);
      for (int64_t row = 0; row < m.height; row += together)
        planar_pointwise<A>(m, m.blocks[block], p, row, least(m.height, row + together));
    }
    planar_out(p, out + image * size);
  };
  // A picture a thread; those left over they share, where that is sooner done.
  constexpr int64_t SOME = 4;  // rows of a task
  const int64_t left = m.images % threads, tasks = least(m.channels / LANES, (m.height + SOME - 1) / SOME);
  const int64_t alone = left < least(threads, tasks) ? m.images - left : m.images;
  parallel_for(alone, threads, task_of(picture));
  for (int64_t image = alone; image < m.images; ++image) {
    const Planar p = planar_for(m);
    planar_in(p, in + image * size);
    for (int64_t block = 0; block < m.depth; ++block) {
      const auto lanes = [&](int64_t task) {
        planar_depthwise<A>(m, m.blocks[block], p, task * LANES, (task + 1) * LANES);
      };
      const auto rows = [&](int64_t task) {
        planar_pointwise<A>(m, m.blocks[block], p, task * SOME, least(m.height, (task + 1) * SOME));
      };
      parallel_for(m.channels / LANES, threads, task_of(lanes));
      parallel_for((m.height + SOME - 1) / SOME, threads, task_of(rows));
    }
    planar_out(p, out + image * size);
  }
}

}  // namespace NS
#endif
