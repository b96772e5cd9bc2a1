// AVX2 and FMA: products in float.
#define ISOPATCH_AVX2
#define NS avx2
#include "kernels.h"

const Table* avx2_table() { return &avx2::table; }
