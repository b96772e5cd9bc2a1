// The passes of one instruction set, as functions the dispatcher can choose from. Included once per translation unit.
#pragma once
#include "convmixer_backward.h"
#include "planar.h"
#include "transformer.h"
#include "table.h"

namespace NS {

// Calls run<T, A>(arguments, task) for every task.
#define EACH_TASK(run, arguments, count, threads)                                                        \
  do {                                                                                                   \
    const auto& a_ = arguments;                                                                          \
    const bool half_ = a_.dtype == DTYPE_BF16, relu_ = a_.act == ACT_RELU;                               \
    const auto each_ = [&](int64_t task) {                                                               \
      if (half_ && relu_) run<bf16, Act::relu>(a_, task);                                                \
      else if (half_) run<bf16, Act::gelu>(a_, task);                                                    \
      else if (relu_) run<float, Act::relu>(a_, task);                                                   \
      else run<float, Act::gelu>(a_, task);                                                              \
    };                                                                                                   \
    parallel_for(count, threads, task_of(each_));                                                        \
  } while (0)

static void run_depthwise_forward(const DepthwiseForward& a, int threads) {
  if (a.images >= 4 * threads)
    EACH_TASK(depthwise_picture, a, a.images, threads);
  else
    EACH_TASK(depthwise_piece, a, a.images * (a.channels / LANES), threads);
}
static void run_pointwise_forward(const PointwiseForward& a, int threads) {
  EACH_TASK(pointwise_forward, a, chunks_of(a.rows, a.chunk), threads);
}
static void run_normalise(const Normalise& a, int threads) { EACH_TASK(normalise, a, chunks_of(a.rows, a.chunk), threads); }
static void run_stem_forward(const StemForward& a, int threads) {
  const int64_t rows = a.images * (a.height / a.patch) * (a.width / a.patch);
  EACH_TASK(stem_forward, a, chunks_of(rows, a.chunk), threads);
}
static void run_gradient_sums(const GradientSums& a, int threads) {
  EACH_TASK(gradient_sums, a, chunks_of(a.rows, a.chunk), threads);
}
static void run_pointwise_backward(const PointwiseBackward& a, int threads) {
  EACH_TASK(pointwise_backward, a, a.groups, threads);
}
static void run_depthwise_backward(const DepthwiseBackward& a, int threads) {
  if (a.groups >= 4 * threads)
    EACH_TASK(depthwise_backward, a, a.groups, threads);
  else
    EACH_TASK(depthwise_backward_piece, a, a.groups * (a.channels / LANES), threads);
}
static void run_stem_backward(const StemBackward& a, int threads) { EACH_TASK(stem_backward, a, a.groups, threads); }

static void run_linear_forward(const LinearForward& a, int threads) {
  EACH_TASK(linear_forward, a, chunks_of(a.rows, a.chunk), threads);
}
static void run_linear_backward(const LinearBackward& a, int threads) {
  EACH_TASK(linear_backward, a, a.groups, threads);
}

// Calls run<T>(arguments, task) for every picture and head.
#define EACH_HEAD(run, arguments, threads)                                    \
  do {                                                                        \
    const auto& a_ = arguments;                                               \
    const auto each_ = [&](int64_t task) {                                    \
      if (a_.dtype == DTYPE_BF16) run<bf16>(a_, task);                        \
      else run<float>(a_, task);                                              \
    };                                                                        \
    parallel_for(a_.images * a_.heads, threads, task_of(each_));              \
  } while (0)

static void run_attention_forward(const AttentionForward& a, int threads) { EACH_HEAD(attention_forward, a, threads); }
static void run_attention_backward(const AttentionBackward& a, int threads) { EACH_HEAD(attention_backward, a, threads); }
static void run_transformer_infer(const TransformerInfer& a, int threads) {
  const bool relu = a.act == ACT_RELU;
  if (a.dtype == DTYPE_BF16)
    relu ? transformer_infer<bf16, Act::relu>(a, threads) : transformer_infer<bf16, Act::gelu>(a, threads);
  else
    relu ? transformer_infer<float, Act::relu>(a, threads) : transformer_infer<float, Act::gelu>(a, threads);
}

#ifdef ISOPATCH_TILES
static void run_convmixer_infer(const ConvmixerInfer& a, int threads) {
  a.act == ACT_RELU ? convmixer_infer<Act::relu>(a, threads) : convmixer_infer<Act::gelu>(a, threads);
}
#else
constexpr void (*run_convmixer_infer)(const ConvmixerInfer&, int) = nullptr;
#endif

static int64_t run_packed_bytes(int64_t dtype, int64_t inner, int64_t columns) {
  return dtype == DTYPE_BF16 ? packed_bytes<Operand>(inner, columns) : packed_bytes<float>(inner, columns);
}
static void run_pack(int64_t dtype, const float* weights, int64_t inner_stride, int64_t column_stride, int64_t inner,
                     int64_t columns, void* packed) {
  if (dtype == DTYPE_BF16)
    pack<Operand>(weights, inner_stride, column_stride, inner, columns, (Operand*)packed);
  else
    pack<float>(weights, inner_stride, column_stride, inner, columns, (float*)packed);
}

static const Table table = {run_depthwise_forward,  run_pointwise_forward,  run_normalise,     run_stem_forward,
                            run_gradient_sums,      run_pointwise_backward, run_depthwise_backward,
                            run_stem_backward,      run_linear_forward,     run_linear_backward,
                            run_attention_forward,  run_attention_backward, run_transformer_infer,
                            run_convmixer_infer,    run_packed_bytes,       run_pack};

}  // namespace NS
