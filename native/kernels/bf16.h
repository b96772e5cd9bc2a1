// bfloat16 as it lies in memory: the upper half of a float.
#pragma once
#include <cstdint>
#include <cstring>

struct bf16 {
  uint16_t bits;
};
static_assert(sizeof(bf16) == 2, "two bytes");

static inline bf16 to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return bf16{0x7fc0};  // NaN
  return bf16{(uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
static inline float to_float(bf16 x) {
  uint32_t u = (uint32_t)x.bits << 16;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}
static inline float to_float(float x) { return x; }
