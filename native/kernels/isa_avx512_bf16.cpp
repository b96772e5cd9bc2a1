// AVX-512 with AVX512_BF16: products of bf16 pairs.
#define ISOPATCH_DOT
#define NS avx512_bf16
#include "kernels.h"

const Table* avx512_bf16_table() { return &avx512_bf16::table; }
