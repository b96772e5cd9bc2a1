// AMX tiles for bf16, AVX-512 for the rest.
#define ISOPATCH_DOT
#define ISOPATCH_TILES
#define NS amx
#include "kernels.h"

const Table* amx_table() { return &amx::table; }
