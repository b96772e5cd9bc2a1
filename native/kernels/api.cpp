// The library's C interface: which instruction set, and every pass through it.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

#include "pool.h"
#include "table.h"

namespace {

// In rising order; a CPU that has one has those before it. AMX_EMULATED is AMX's code with its instructions in software,
// for tests on CPUs without: it is never chosen by itself.
enum Isa { NONE = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3, AMX = 4, AMX_EMULATED = 5 };

// The CPU has AMX's tiles and bf16 products, and the system lets this process use them.
bool amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool cpu = (d >> 22 & 1) && (d >> 24 & 1);
  constexpr int request_permission = 0x1023, tile_data = 18;  // Linux's arch_prctl
  return cpu && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// What the CPU has.
int found() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!avx2) return NONE;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return AVX2;
  if (!__builtin_cpu_supports("avx512bf16")) return AVX512;
  return amx() ? AMX : AVX512_BF16;
}

// And this library.
int supported() {
  const int isa = found();
  return isa < ISOPATCH_MOST_ISA ? isa : ISOPATCH_MOST_ISA;
}

int chosen = supported();

const Table& table() {
  switch (chosen) {
#if ISOPATCH_MOST_ISA >= 4
    case AMX: return *amx_table();
#endif
#if ISOPATCH_MOST_ISA >= 3
    case AMX_EMULATED: return *amx_emulated_table();
    case AVX512_BF16: return *avx512_bf16_table();
#endif
    case AVX512: return *avx512_table();
    default: return *avx2_table();
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Changes with every change of a struct or function.
EXPORT int isopatch_interface() { return 5; }

EXPORT int isopatch_supported() { return supported(); }
EXPORT int isopatch_chosen() { return chosen; }

// Returns what is chosen from now on: `isa`, or less where the CPU has less.
EXPORT int isopatch_choose(int isa) {
  const int most = supported();
  if (isa == AMX_EMULATED && most >= AVX512_BF16) return chosen = isa;
  return chosen = isa < most ? isa : most;
}

// An OpenMP runtime's GOMP_parallel, or null.
EXPORT void isopatch_use_openmp(void* parallel) {
  use_openmp((void (*)(void (*)(void*), void*, unsigned, unsigned))parallel);
}

EXPORT int64_t isopatch_packed_bytes(int64_t dtype, int64_t inner, int64_t columns) {
  return table().packed_bytes(dtype, inner, columns);
}
EXPORT void isopatch_pack(int64_t dtype, const float* weights, int64_t inner_stride, int64_t column_stride,
                          int64_t inner, int64_t columns, void* packed) {
  table().pack(dtype, weights, inner_stride, column_stride, inner, columns, packed);
}

// A hash of values spread over each array, few enough to be cheap: whether weights have changed since they were packed.
// Arrays of up to 1024 values count whole.
EXPORT uint64_t isopatch_sample(const float* const* arrays, const int64_t* sizes, int64_t count) {
  constexpr int64_t WHOLE = 1024, SPREAD = 64;
  uint64_t hash = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = sizes[i], step = size <= WHOLE ? 1 : size / SPREAD;
    uint64_t sum = 0;
    uint32_t factor = 1;  // odd, so that no change of a value is lost, and another one for each
    for (int64_t at = 0; at < size; at += step, factor += 0x9e3779b2) {
      uint32_t bits;
      std::memcpy(&bits, arrays[i] + at, 4);
      sum += (uint64_t)bits * factor;
    }
    hash = (hash ^ sum) * 0x9e3779b97f4a7c15;
    hash ^= hash >> 29;
  }
  return hash;
}

// What a pass returns.
enum { DONE = 0, NO_MEMORY = 1, REFUSED = 2 };

// Sizes with which a pass stays within the memory that it is given.
static bool fits_lanes(int64_t size) { return size > 0 && size % 32 == 0; }
template <class Pass>
static bool fits_map(const Pass& a) {
  return fits_lanes(a.channels) && a.kernel >= 1 && a.kernel <= 15 && a.pad_top >= 0 && a.pad_top < a.kernel &&
         a.pad_left >= 0 && a.pad_left < a.kernel && a.images > 0 && a.height > 0 && a.width > 0;
}
template <class Pass>
static bool fits_rows(const Pass& a) {
  return fits_lanes(a.channels) && a.rows > 0 && a.chunk > 0;
}
template <class Pass>
static bool fits_stem(const Pass& a) {
  return fits_lanes(a.channels) && fits_lanes(a.inner) && a.patch > 0 && a.in_channels > 0 && a.images > 0 && a.chunk > 0 &&
         a.height >= a.patch && a.width >= a.patch && a.in_channels * a.patch * a.patch <= a.inner;
}
template <class Pass>
static bool fits_heads(const Pass& a) {
  return a.images > 0 && a.tokens > 0 && a.heads > 0 && a.width > 0 && a.width % 16 == 0;
}
template <class Pass>
static bool fits_linear(const Pass& a) {
  return fits_lanes(a.inner) && fits_lanes(a.columns) && a.rows > 0 && a.chunk > 0 && a.rows_per_image > 0;
}
static bool fits(const DepthwiseForward& a) { return fits_map(a); }
static bool fits(const DepthwiseBackward& a) { return fits_map(a) && a.groups > 0; }
static bool fits(const PointwiseForward& a) { return fits_rows(a) && fits_lanes(a.inner); }
static bool fits(const PointwiseBackward& a) { return fits_rows(a) && fits_lanes(a.inner) && a.groups > 0; }
static bool fits(const Normalise& a) { return fits_rows(a); }
static bool fits(const GradientSums& a) { return fits_rows(a); }
static bool fits(const StemForward& a) { return fits_stem(a); }
static bool fits(const StemBackward& a) { return fits_stem(a) && a.groups > 0; }
static bool fits(const LinearForward& a) { return fits_linear(a); }
static bool fits(const LinearBackward& a) { return fits_linear(a) && a.groups > 0; }
static bool fits(const AttentionForward& a) { return fits_heads(a); }
static bool fits(const AttentionBackward& a) { return fits_heads(a); }
static bool fits(const TransformerInfer& a) {
  return a.images > 0 && a.tokens > 0 && fits_lanes(a.dim) && fits_lanes(a.hidden) && a.heads > 0 &&
         a.dim % (16 * a.heads) == 0;
}
static bool fits(const ConvmixerInfer& a) {
  return table().convmixer_infer && a.dtype == DTYPE_BF16 && fits_map(a) && a.height > 16 && a.width > 16 && a.width <= 32;
}
static bool fits(const FinishNorm& a) { return a.parts > 0 && a.each > 0 && a.channels > 0 && a.count > 0; }
static bool fits(const AddUp& a) { return a.parts > 0 && a.size >= 0; }

// Nothing may be thrown into what calls this library.
template <class Arguments, class Run>
static int guarded(const Arguments& a, const Run& run) noexcept {
  if (!fits(a)) return REFUSED;
  try {
    run();
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
  return DONE;
}

#define PASS(name, Arguments)                                       \
  EXPORT int isopatch_##name(const Arguments* a, int threads) {     \
    return guarded(*a, [&] { table().name(*a, threads); });         \
  }
PASS(depthwise_forward, DepthwiseForward)
PASS(pointwise_forward, PointwiseForward)
PASS(normalise, Normalise)
PASS(stem_forward, StemForward)
PASS(gradient_sums, GradientSums)
PASS(pointwise_backward, PointwiseBackward)
PASS(depthwise_backward, DepthwiseBackward)
PASS(stem_backward, StemBackward)
PASS(linear_forward, LinearForward)
PASS(linear_backward, LinearBackward)
PASS(attention_forward, AttentionForward)
PASS(attention_backward, AttentionBackward)
PASS(transformer_infer, TransformerInfer)
PASS(convmixer_infer, ConvmixerInfer)

EXPORT int isopatch_finish_norm(const FinishNorm* a) {
  if (!fits(*a)) return REFUSED;
  constexpr int64_t WIDTH = 64;  // channels at a time, side by side in memory
  for (int64_t first = 0; first < a->channels; first += WIDTH) {
    const int64_t width = first + WIDTH < a->channels ? WIDTH : a->channels - first;
    double n = 0, mean[WIDTH] = {}, squares[WIDTH] = {};  // squares: of the distances to the mean (Chan et al. 1979)
    for (int64_t i = 0; i < a->parts; ++i) {
      const float* part = a->sums + i * 3 * a->channels + first;
      const int64_t left = a->count - i * a->each;
      const double own = (double)(left < a->each ? left : a->each), share = own / (n + own);
      for (int64_t c = 0; c < width; ++c) {
        const double sum = part[a->channels + c], offset = sum / own, apart = part[c] + offset - mean[c];
        squares[c] += part[2 * a->channels + c] - offset * sum + apart * apart * n * share;
        mean[c] += apart * share;
      }
      n += own;
    }
    for (int64_t c = 0; c < width; ++c) {
      double variance = squares[c] / n;
      if (variance < 0) variance = 0;  // by rounding; NaN stays NaN
      const double rstd = 1 / std::sqrt(variance + a->eps);
      const int64_t at = first + c;
      a->mean[at] = (float)mean[c];
      a->rstd[at] = (float)rstd;
      a->scale[at] = (float)(a->weight[at] * rstd);
      a->shift[at] = (float)(a->bias[at] - mean[c] * a->weight[at] * rstd);
      a->variance[at] = (float)(n > 1 ? variance * n / (n - 1) : variance);
    }
  }
  return DONE;
}

EXPORT int isopatch_add_up(const AddUp* a, int threads) {
  const int64_t piece = 4096;
  const auto each = [&](int64_t task) {
    const int64_t last = (task + 1) * piece < a->size ? (task + 1) * piece : a->size;
    for (int64_t i = task * piece; i < last; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < a->parts; ++p) sum += a->in[p * a->size + i];
      a->out[i] = (float)sum;
    }
  };
  return guarded(*a, [&] { parallel_for((a->size + piece - 1) / piece, threads, task_of(each)); });
}
