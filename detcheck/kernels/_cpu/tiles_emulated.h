// What AMX's tile instructions do, by Intel's manual, in C++: where the processor has them, to test it by; where TILES_EMULATED
// is set, in their place.
#pragma once
#include "common.h"

struct Tile {
    uint8_t rows[16][64];
};

// sums[16, 16] += a[16, 32] * b[16 pairs, 16 columns, 2]. Needs `Flushed`.
static void add_tiles(Tile& sums, const Tile& a, const Tile& b) {
    for (int m = 0; m < 16; m++) {
        float even[16] = {}, odd[16] = {}, row[16];
        std::memcpy(row, sums.rows[m], 64);
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 16; n++) {
                even[n] = std::fma(one_as<BF16>(a.rows[m], 2 * k), one_as<BF16>(b.rows[k], 2 * n), even[n]);
                odd[n] = std::fma(one_as<BF16>(a.rows[m], 2 * k + 1), one_as<BF16>(b.rows[k], 2 * n + 1), odd[n]);
            }
        for (int n = 0; n < 16; n++) row[n] = row[n] + (even[n] + odd[n]);
        std::memcpy(sums.rows[m], row, 64);
    }
}

#ifdef TILES_EMULATED
static thread_local Tile emulated[8];

static void emulated_load(int t, const void* at, int64_t stride) {
    for (int i = 0; i < 16; i++) std::memcpy(emulated[t].rows[i], static_cast<const char*>(at) + i * stride, 64);
}

static void emulated_store(int t, void* at, int64_t stride) {
    for (int i = 0; i < 16; i++) std::memcpy(static_cast<char*>(at) + i * stride, emulated[t].rows[i], 64);
}

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_release
#define _tile_zero(t) emulated[t] = Tile{}
#define _tile_loadd(t, at, stride) emulated_load(t, at, stride)
#define _tile_stored(t, at, stride) emulated_store(t, at, stride)
#define _tile_dpbf16ps(c, a, b) add_tiles(emulated[c], emulated[a], emulated[b])
#define _tile_loadconfig(all) (void)(all)
#define _tile_release() (void)0
#endif
