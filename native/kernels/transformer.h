// A run of transformer blocks for inference, composed of the passes.
#pragma once
#include "attention.h"
#include "linear.h"

namespace NS {

// `images` pictures through all blocks; stream: theirs. chunk: rows of a task.
template <class T, Act A>
static void transformer_images(const TransformerInfer& t, float* stream, int64_t images, int64_t chunk, int threads) {
  const int64_t rows = images * t.tokens, size = (int64_t)sizeof(T);
  // Slots beyond those of the passes, which run on this thread too.
  T* qkv = (T*)scratch(12, rows * 3 * t.dim * size);
  T* mixed = (T*)scratch(13, rows * t.dim * size);
  const auto step = [&](int64_t source, const void* in, int64_t inner, int64_t columns, const void* weight,
                        const float* bias, void* out, const float* residual) {
    LinearForward l = {};
    l.dtype = t.dtype, l.act = t.act, l.source = source, l.rows = rows, l.inner = inner, l.columns = columns;
    l.chunk = chunk, l.rows_per_image = t.tokens, l.in = in, l.weight = weight, l.bias = bias, l.out = out;
    l.residual = residual;
    return l;
  };
  const auto normed = [](LinearForward l, const float* weight, const float* bias, double eps) {
    l.norm_weight = weight, l.norm_bias = bias, l.eps = eps;
    return l;
  };
  AttentionForward attention = {t.dtype, images, t.tokens, t.heads, t.dim / t.heads, 0, qkv, mixed, nullptr};
  attention.factor = 1 / std::sqrt((double)attention.width);
  for (int64_t i = 0; i < t.depth; ++i) {
    const TransformerBlock& b = t.blocks[i];
    const LinearForward into = normed(step(SOURCE_NORM, stream, t.dim, 3 * t.dim, b.qkv, b.qkv_bias, qkv, nullptr),
                                      b.norm1_weight, b.norm1_bias, b.eps1);
    const LinearForward out_of = step(SOURCE_PLAIN, mixed, t.dim, t.dim, b.proj, b.proj_bias, stream, stream);
    const LinearForward first = normed(step(SOURCE_NORM, stream, t.dim, t.hidden, b.fc1, b.fc1_bias, nullptr, nullptr),
                                       b.norm2_weight, b.norm2_bias, b.eps2);
    const LinearForward second = step(SOURCE_PLAIN, nullptr, t.hidden, t.dim, b.fc2, b.fc2_bias, stream, stream);
    const auto qkv_task = [&](int64_t task) { linear_forward<T, A>(into, task); };
    const auto head_task = [&](int64_t task) { attention_forward<T>(attention, task); };
    const auto row_task = [&](int64_t task) {
      linear_forward<T, A>(out_of, task);
      mlp_forward<T, A>(first, second, task);
    };
    parallel_for(chunks_of(rows, chunk), threads, task_of(qkv_task));
    parallel_for(images * t.heads, threads, task_of(head_task));
    parallel_for(chunks_of(rows, chunk), threads, task_of(row_task));
  }
}

// Where there are pictures for all threads, each takes some through all blocks and none waits; what lies between the
// passes then stays in its cache. Else the threads share every pass.
template <class T, Act A>
static void transformer_infer(const TransformerInfer& t, int threads) {
  if (t.images < threads) return transformer_images<T, A>(t, t.stream, t.images, 48, threads);
  const int64_t together = 768 / t.tokens > 1 ? 768 / t.tokens : 1;
  const int64_t parts = least(t.images, rounded_up((t.images + together - 1) / together, threads));
  const auto part = [&](int64_t task) {
    int64_t first, last;
    part_of(t.images, parts, task, first, last);
    transformer_images<T, A>(t, t.stream + first * t.tokens * t.dim, last - first, ROWS, 1);
  };
  parallel_for(parts, threads, task_of(part));
}

}  // namespace NS
