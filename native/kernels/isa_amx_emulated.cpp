// AMX's code with its instructions in software: for tests.
#define ISOPATCH_DOT
#define ISOPATCH_TILES
#define ISOPATCH_EMULATED_TILES
#define NS amx_emulated
#include "kernels.h"

const Table* amx_emulated_table() { return &amx_emulated::table; }
