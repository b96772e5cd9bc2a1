// AVX-512 without bf16 products.
#define NS avx512
#include "kernels.h"

const Table* avx512_table() { return &avx512::table; }
