// The library's C interface: which instruction set, and every pass through it.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>

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

int supported() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!avx2) return NONE;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return AVX2;
  if (!__builtin_cpu_supports("avx512bf16")) return AVX512;
  return amx() ? AMX : AVX512_BF16;
}

int chosen = supported();

const Table& table() {
  switch (chosen) {
    case AMX: return *amx_table();
    case AMX_EMULATED: return *amx_emulated_table();
    case AVX512_BF16: return *avx512_bf16_table();
    case AVX512: return *avx512_table();
    default: return *avx2_table();
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Changes with every change of a struct or function.
EXPORT int isopatch_interface() { return 2; }

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

#define PASS(name, Arguments) \
  EXPORT void isopatch_##name(const Arguments* a, int threads) { table().name(*a, threads); }
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

EXPORT void isopatch_finish_norm(const FinishNorm* a) {
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
}

EXPORT void isopatch_add_up(const AddUp* a, int threads) {
  const int64_t piece = 4096;
  const auto each = [&](int64_t task) {
    const int64_t last = (task + 1) * piece < a->size ? (task + 1) * piece : a->size;
    for (int64_t i = task * piece; i < last; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < a->parts; ++p) sum += a->in[p * a->size + i];
      a->out[i] = (float)sum;
    }
  };
  parallel_for((a->size + piece - 1) / piece, threads, task_of(each));
}
