// What the passes take. Plain C, so that any language can call them; one struct per pass.
//
// Activations are rows (images * height * width) of `channels` values, float or bf16 (`dtype`), channels a multiple of 32.
// A norm's vectors have one float per channel. Partial sums are summed by the finishing passes in a fixed order, so
// results depend neither on the number of threads nor on which one did what.
#pragma once
#include <cstdint>

extern "C" {

enum { DTYPE_FLOAT = 0, DTYPE_BF16 = 1 };
enum { ACT_GELU = 0, ACT_RELU = 1 };

// Sums of a norm's statistics, for each part (a picture or a chunk of rows) and channel: the part's first act(u), then the
// sums of act(u) minus that first one and of its square. So the variance is no small difference of large numbers.
//
// Forward passes end in one of three ways: with `sums`, u is written and summed up for a norm of batch statistics; with
// `scale`, the norm is applied; with neither, u is written.

// u = depthwise(x) + bias, y = x + norm(act(u)).
struct DepthwiseForward {
  int64_t dtype, act, images, height, width, channels, kernel;
  int64_t pad_top, pad_left;
  const void* in;          // x; with in_scale: the step before's act() input, of which x = in_scale act(in) + in_shift
  const float *in_scale, *in_shift;
  void* x;                 // with in_scale: x is written here
  const float *weight;     // (kernel * kernel, channels)
  const float *bias;
  void* out;               // u or y
  const float *scale, *shift;
  float* sums;             // (images, 3, channels): see Sums
};

// u = W y + bias, x' = norm(act(u)), with y = x + norm1(act(u1)), or y = x without u1.
struct PointwiseForward {
  int64_t dtype, act, rows, inner, channels, chunk;  // chunk: rows of a partial sum
  const void *x, *u1;
  const float *scale1, *shift1;
  const void* weight;      // packed
  const float* bias;
  void* out;               // u or x'
  const float *scale, *shift;
  float* sums;             // (chunks, 3, channels): see Sums
};

// x = scale act(u) + shift.
struct Normalise {
  int64_t dtype, act, rows, channels, chunk;
  const void* u;
  const float *scale, *shift;
  void* x;
};

// sums of g and of g * xhat, xhat = (act(u) - mean) * rstd.
struct GradientSums {
  int64_t dtype, act, rows, channels, chunk;
  const void *g, *u;
  const float *mean, *rstd;
  float* sums;             // (chunks, 2, channels)
};

// Through norm, activation and 1x1 step: g -> the gradient of y, the weight's, the bias's, and the sums of the norm before.
struct PointwiseBackward {
  int64_t dtype, act, rows, inner, channels, chunk, groups;
  const void *g, *u;       // gradient of the output; the step's act() input
  const float *mean, *rstd, *scale, *mean_g, *mean_gx;
  const void *x, *u1;      // y = x + scale1 act(u1) + shift1
  const float *mean1, *rstd1, *scale1, *shift1;
  const void* weight;      // packed: outputs inside, inputs as columns
  void* gy;                // gradient of y
  float* sums;             // (chunks, 2, inner): of gy and gy * xhat1
  float* weight_sums;      // (groups, channels, inner)
  float* bias_sums;        // (chunks, channels)
};

// Through norm, activation, depthwise step and residual: gy -> gradient of x, the kernels', the bias's. Without u through
// the convolution alone: no norm, no activation, no residual.
struct DepthwiseBackward {
  int64_t dtype, act, images, height, width, channels, kernel, groups;
  int64_t pad_top, pad_left;
  const void *gy, *u;
  const float *mean, *rstd, *scale, *mean_g, *mean_gx;
  const void* x;
  const float* weight;     // (kernel * kernel, channels)
  void* gx;
  const void* before_u;    // the step before's act() input, or null
  const float *before_mean, *before_rstd;
  float* before_sums;      // (images, 2, channels): of gx and gx * xhat of the norm before
  float* weight_sums;      // (groups, kernel * kernel, channels)
  float* bias_sums;        // (groups, channels)
};

// Mean and variance of a norm from Sums of `parts` parts of `each` places, the last with what is left of `count`.
struct FinishNorm {
  int64_t parts, each, channels, count;
  const float *sums, *weight, *bias;
  double eps;
  float *mean, *rstd, *scale, *shift, *variance;  // variance: unbiased
};

// out (size) = sum over parts of in (parts, size), in order.
struct AddUp {
  int64_t parts, size;
  const float* in;
  float* out;
};

// Patches (channels innermost, padded with zeros to `inner`) times weights: u = W patch + bias.
struct StemForward {
  int64_t dtype, act, images, height, width, in_channels, patch, inner, channels, chunk;
  int64_t stride_image, stride_channel, stride_row, stride_column;  // of the picture, in floats
  const float* pictures;
  const void* weight;
  const float* bias;
  void* out;               // u or norm(act(u))
  const float *scale, *shift;
  float* sums;             // (chunks, 3, channels): see Sums
};

struct StemBackward {
  int64_t dtype, act, images, height, width, in_channels, patch, inner, channels, chunk, groups;
  int64_t stride_image, stride_channel, stride_row, stride_column;
  const float* pictures;
  const void *g, *u;
  const float *mean, *rstd, *scale, *mean_g, *mean_gx;
  float* weight_sums;      // (groups, channels, inner)
  float* bias_sums;        // (chunks, channels)
};

// What a linear step of a transformer's residual branch multiplies: `in` itself, act(in), or LayerNorm(in).
enum { SOURCE_PLAIN = 0, SOURCE_ACT = 1, SOURCE_NORM = 2 };

// W source(in) + bias. With residual: out = residual + keep (W source(in) + bias), in float.
struct LinearForward {
  int64_t dtype, act, source, rows, inner, columns, chunk, rows_per_image;
  const void* in;          // (rows, inner); SOURCE_NORM: float, the residual stream
  const float *norm_weight, *norm_bias;
  double eps;
  float *mean, *rstd;      // SOURCE_NORM: (rows), written; or null
  const void* weight;      // packed
  const float* bias;
  const float* residual;   // (rows, columns), or null
  const float* keep;       // (images): factor of each picture's branch, or null
  void* out;               // (rows, columns), float with residual
};

// From the gradient of a linear step's output to those of its input, weight, bias and norm.
struct LinearBackward {
  int64_t dtype, act, source, rows, inner, columns, chunk, groups, rows_per_image;
  const void* g;           // (rows, columns): with `residual` float, the residual stream's
  int64_t residual;
  const float* keep;
  const void* in;
  const float *norm_weight, *norm_bias, *mean, *rstd;
  const void* weight;      // packed: outputs inside, inputs as columns
  const float* g_stream;   // SOURCE_NORM: gradient that reaches the stream past the branch
  void* g_in;              // SOURCE_NORM: float, the stream's whole gradient; may be g_stream
  float* weight_sums;      // (groups, columns, inner)
  float* bias_sums;        // (chunks, columns)
  float* norm_sums;        // (chunks, 2, inner): of the norm's weight and bias
};

// softmax(factor q k^T) v for every head. qkv: (images, tokens, 3, heads, width), width a multiple of 16.
struct AttentionForward {
  int64_t dtype, images, tokens, heads, width;
  double factor;           // of q k^T
  const void* qkv;
  void* out;               // (images, tokens, heads, width)
  float* log_sums;         // (images, heads, tokens): log of the softmax's sums, or null
};

// A transformer block's weights for inference; products packed.
struct TransformerBlock {
  const float *norm1_weight, *norm1_bias;
  double eps1;
  const void* qkv;
  const float* qkv_bias;
  const void* proj;
  const float* proj_bias;
  const float *norm2_weight, *norm2_bias;
  double eps2;
  const void* fc1;
  const float* fc1_bias;
  const void* fc2;
  const float* fc2_bias;
};

// All blocks, one after another, for a few pictures at a time.
struct TransformerInfer {
  int64_t dtype, act, images, tokens, dim, hidden, heads, depth;
  const TransformerBlock* blocks;
  float* stream;           // (images, tokens, dim): in and out
};

// A ConvMixer block's weights for inference in the layout of planar.h.
struct ConvmixerBlock {
  const void* taps;        // bf16 (channels, kernel, 16): kernel rows with zeros behind
  const float *depthwise_bias, *scale1, *shift1;
  const void* matrix;      // bf16 (channels / 32, channels / 32, 32, 32): blocks of outputs, in each of inputs
  const float *pointwise_bias, *scale2, *shift2;
};

// All blocks, one after another, for one picture after another: bf16, maps 17 to 32 wide and at least 17 high, with AMX.
struct ConvmixerInfer {
  int64_t dtype, act, images, height, width, channels, kernel, pad_top, pad_left, depth;
  const ConvmixerBlock* blocks;
  const void* in;
  void* out;
};

struct AttentionBackward {
  int64_t dtype, images, tokens, heads, width;
  double factor;           // of q k^T
  const void *qkv, *out, *g;
  const float* log_sums;
  void* g_qkv;
};

}  // extern "C"
