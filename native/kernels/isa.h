// One instruction set per translation unit: NS, its namespace, is defined by the file that includes this.
#pragma once
#include <cstdint>

#ifdef ISOPATCH_AVX2
#include "simd_avx2.h"
#else
#include "simd_avx512.h"
#endif

namespace NS {

// In place of std::min and std::fill: see task_of in pool.h.
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline void set_to(float* memory, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) memory[i] = value;
}

// The strided reads and writes of one channel block defeat the hardware's prefetching: ask for the next block's lines.
static inline void soon(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
static inline void soon_second(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }  // into the second cache
static inline void soon_written(void* p) { __builtin_prefetch(p, 1, 3); }

}  // namespace NS
