// What every instruction set offers.
#pragma once
#include <cstdint>

#include "passes.h"

struct Table {
  void (*depthwise_forward)(const DepthwiseForward&, int threads);
  void (*pointwise_forward)(const PointwiseForward&, int threads);
  void (*normalise)(const Normalise&, int threads);
  void (*stem_forward)(const StemForward&, int threads);
  void (*gradient_sums)(const GradientSums&, int threads);
  void (*pointwise_backward)(const PointwiseBackward&, int threads);
  void (*depthwise_backward)(const DepthwiseBackward&, int threads);
  void (*stem_backward)(const StemBackward&, int threads);
  void (*linear_forward)(const LinearForward&, int threads);
  void (*linear_backward)(const LinearBackward&, int threads);
  void (*attention_forward)(const AttentionForward&, int threads);
  void (*attention_backward)(const AttentionBackward&, int threads);
  void (*transformer_infer)(const TransformerInfer&, int threads);
  void (*convmixer_infer)(const ConvmixerInfer&, int threads);  // null without tiles
  int64_t (*packed_bytes)(int64_t dtype, int64_t inner, int64_t columns);
  void (*pack)(int64_t dtype, const float* weights, int64_t inner_stride, int64_t column_stride, int64_t inner,
               int64_t columns, void* packed);
};

const Table* avx2_table();
const Table* avx512_table();
const Table* avx512_bf16_table();
const Table* amx_table();
const Table* amx_emulated_table();
