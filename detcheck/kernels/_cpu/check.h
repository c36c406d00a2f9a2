// Whether the processor's own instructions for bfloat16 add in the order that they are taken for: on numbers of every size, the
// smallest and largest among them, against that order in C++. To be asked before they are used.
#pragma once
#include "micro.h"
#if defined(DETCHECK_TILES) && !defined(TILES_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static inline uint32_t next_of(uint32_t& state) { return state = state * 1664525u + 1013904223u, state >> 8 ^ state << 11; }

// bfloat16 with exponents from `low` on, in 16 steps; one in 32 is zero.
static inline uint16_t number(uint32_t& state, uint32_t low) {
    const uint32_t bits = next_of(state);
    return bits >> 27 ? uint16_t((bits & 0x807F) | (low + (bits >> 16 & 15)) << 7) : 0;
}

static __attribute__((noinline)) bool pairs_as_expected() {
#ifdef __AVX512BF16__
    Flushed as_the_instruction_does;
    uint32_t state = 1;
    for (int round = 0; round < 3000; round++) {
        u16v a, b;
        v16 sum;
        const uint32_t low[] = {112, 50, 1, 0};  // ordinary products, products near the smallest number, small and subnormal factors
        const uint32_t from = low[round % 4], other = from == 50 ? 62 : from < 2 ? 180 : from;
        for (int l = 0; l < 16; l++) {
            a[l] = number(state, from) | uint32_t(number(state, from)) << 16;
            b[l] = number(state, other) | uint32_t(number(state, other)) << 16;
            const uint32_t bits = (next_of(state) & 0x807FFFFF) | (from == 112 ? 110 + next_of(state) % 32 : next_of(state) % 8) << 23;
            float start;
            std::memcpy(&start, &bits, 4);
            sum[l] = start;
        }
        const v16 found = add_pairs(sum, (v16)a, (v16)b), expected = add_pairs_in_two<v16, u16v>(sum, (v16)a, (v16)b);
        if (std::memcmp(&found, &expected, sizeof found)) return false;
    }
#endif
    return true;
}

static __attribute__((noinline)) bool tiles_as_expected() {
#if defined(DETCHECK_TILES) && !defined(TILES_EMULATED)
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */)) return false;
    Flushed as_the_instruction_does;
    configure();
    uint32_t state = 1;
    bool good = true;
    for (int round = 0; round < 60 && good; round++) {
        Tile a, b, sums;
        const uint32_t low[] = {112, 50, 0}, from = low[round % 3], other = from == 50 ? 62 : from == 0 ? 180 : from;
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 32; j++) {
                const uint16_t x = number(state, from), y = number(state, other);
                std::memcpy(&a.rows[i][2 * j], &x, 2), std::memcpy(&b.rows[i][2 * j], &y, 2);
                if (j % 2) continue;
                const float start = one_as<BF16>(&x, 0) * 1.1f;
                std::memcpy(&sums.rows[i][2 * j], &start, 4);
            }
        Tile found;
        WRITTEN();
        _tile_loadd(0, sums.rows, 64);
        _tile_loadd(4, a.rows, 64);
        _tile_loadd(6, b.rows, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stored(0, found.rows, 64);
        add_tiles(sums, a, b);
        good = !std::memcmp(&found, &sums, sizeof sums);
    }
    _tile_release();
    return good;
#else
    return true;
#endif
}

// 1: yes, or there are none; 0: no, or the system does not let this process use them.
extern "C" int64_t detcheck_as_expected() { return pairs_as_expected() && tiles_as_expected(); }
