// A few dot products side by side, each in the order that its length alone decides.
//
// Of float32 and float16 (`lanes`): lane j of 8 takes elements j, j + 8, j + 16 ... one after the other, product fused into sum.
// Of bfloat16 (`pairs`): lane j of 16 takes pairs of elements j, j + 16, j + 32 ..., the odd one of a pair before the even one, and
// numbers below the normal ones are zeros: what AVX512_BF16 does in one instruction, and any processor in two.
// Then the lanes are added, see _cpu_sums.h.
#pragma once
#include "_cpu_sums.h"

static constexpr int64_t GROUP_N = 4;  // rows of w packed side by side

#ifdef WIDE_REGISTERS
static constexpr int LANES_WIDE = 16, LANES_WIDE_ROWS = 8, PAIRS_WIDE = 8;  // columns that keep the registers full
#else
static constexpr int LANES_WIDE = 4, LANES_WIDE_ROWS = 4, PAIRS_WIDE = 4;
#endif

// Where column j is: rows `far` bytes apart, or (GROUPED) packed in groups, `far` bytes from one group to the next, `bytes` a step.
template <bool GROUPED> static inline const char* column(const char* w, int j, int64_t far, int64_t bytes) {
    return GROUPED ? w + j / GROUP_N * far + j % GROUP_N * bytes : w + j * far;
}

#ifdef WIDE_REGISTERS
// A step of columns j and j + 1.
template <int DT, bool GROUPED> static inline v16 two_columns(const char* w, int j, int64_t far) {
    constexpr int64_t bytes = DT == F32 ? 32 : 16;
    if constexpr (GROUPED && DT == F32) return get<v16>(column<true>(w, j, far, bytes));
    if constexpr (GROUPED && DT == F16) return (v16)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(column<true>(w, j, far, bytes))));
    return both(load_as<DT>(column<GROUPED>(w, j, far, bytes), 0), load_as<DT>(column<GROUPED>(w, j + 1, far, bytes), 0));
}
#endif

// MR x NR sums over `steps` steps of 8 elements, written to y[MR, NR], or added to what is there. x: row i at x + i * x_row, a step
// x_step further on; w_step: bytes from one step of w to the next; y_row: from row to row.
template <int MR, int NR, int DT, bool GROUPED>
static inline void lanes(const float* x, int64_t x_row, int64_t x_step, const char* w, int64_t far, int64_t w_step, float* y, int64_t y_row, int64_t steps, bool first) {
    constexpr int64_t bytes = DT == F32 ? 32 : 16;
    constexpr bool ahead = !GROUPED && DT == F16 && MR == 1;  // fetch the next columns: rows are short, and the processor does not guess
#ifdef WIDE_REGISTERS
    if constexpr (NR % 4 == 0) {
        v16 sums[MR][NR / 2];
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR / 2; j++) sums[i][j] = twice(splat(0.f));
        for (int64_t k = 0; k < steps; k++, x += x_step, w += w_step) {
            v16 a[MR];
            for (int i = 0; i < MR; i++) {
                a[i] = twice(load(x + i * x_row));
                IN_REGISTER(a[i]);
            }
            for (int j = 0; j < NR / 2; j++) {
                if (ahead && k % 4 == 0) {
                    __builtin_prefetch(column<GROUPED>(w, 2 * j + NR, far, bytes), 0, 2);
                    __builtin_prefetch(column<GROUPED>(w, 2 * j + 1 + NR, far, bytes), 0, 2);
                }
                v16 b = two_columns<DT, GROUPED>(w, 2 * j, far);
                IN_REGISTER(b);
                for (int i = 0; i < MR; i++) sums[i][j] = fma(a[i], b, sums[i][j]);
            }
        }
        for (int i = 0; i < MR; i++, y += y_row) {
            if constexpr (NR == 4) write_sums(y, add_lanes(sums[i][0], sums[i][1]), first);
            else for (int j = 0; j < NR / 2; j += 4) write_sums(y + 2 * j, add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]), first);
        }
        return;
    }
#endif
    v8 sums[MR][NR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) sums[i][j] = splat(0.f);
    for (int64_t k = 0; k < steps; k++, x += x_step, w += w_step) {
        v8 a[MR];
        for (int i = 0; i < MR; i++) {
            a[i] = load(x + i * x_row);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < NR; j++) {
            if (ahead && k % 4 == 0) __builtin_prefetch(column<GROUPED>(w, j + NR, far, bytes), 0, 2);
            v8 b = load_as<DT>(column<GROUPED>(w, j, far, bytes), 0);
            IN_REGISTER(b);
            for (int i = 0; i < MR; i++) sums[i][j] = fma(a[i], b, sums[i][j]);
        }
    }
    for (int i = 0; i < MR; i++, y += y_row) {
        if constexpr (NR % 4 == 0) for (int j = 0; j < NR; j += 4) write_sums(y + j, add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]), first);
        else for (int j = 0; j < NR; j++) y[j] = first ? add_lanes(sums[i][j]) : y[j] + add_lanes(sums[i][j]);
    }
}

// 8 pairs of bfloat16 each: sum + odd * odd, + even * even.
static inline v8 add_pairs(v8 sum, u8v a, u8v b) {
    u8v a_odd = a & 0xFFFF0000u, b_odd = b & 0xFFFF0000u, a_even = a << 16, b_even = b << 16;
    return fma((v8)a_even, (v8)b_even, fma((v8)a_odd, (v8)b_odd, sum));
}

#ifdef WIDE_REGISTERS
typedef uint32_t u16v __attribute__((vector_size(64)));
static inline v16 add_pairs_in_two(v16 sum, u16v a, u16v b) {
    u16v a_odd = a & 0xFFFF0000u, b_odd = b & 0xFFFF0000u, a_even = a << 16, b_even = b << 16;
    return fma((v16)a_even, (v16)b_even, fma((v16)a_odd, (v16)b_odd, sum));
}
#ifdef __AVX512BF16__
static inline v16 add_pairs(v16 sum, u16v a, u16v b) { return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
static inline v16 add_pairs(v16 sum, u16v a, u16v b) { return add_pairs_in_two(sum, a, b); }
#endif
#endif

// The same of bfloat16, a step being 32 elements: x packed [steps][MR][32], w grouped or in rows. Needs `Flushed`.
template <int MR, int NR, bool GROUPED>
static inline void pairs(const char* x, const char* w, int64_t far, float* y, int64_t y_row, int64_t steps, bool first) {
    constexpr int64_t bytes = 64, w_step = GROUPED ? GROUP_N * bytes : bytes, x_step = MR * bytes;
#ifdef WIDE_REGISTERS
    v16 sums[MR][NR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) sums[i][j] = twice(splat(0.f));
    for (int64_t k = 0; k < steps; k++, x += x_step, w += w_step) {
        u16v a[MR];
        for (int i = 0; i < MR; i++) {
            a[i] = get<u16v>(x + i * bytes);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < NR; j++) {
            if (!GROUPED) __builtin_prefetch(column<GROUPED>(w, j + NR, far, bytes), 0, 2);  // the next columns: rows are short
            u16v b = get<u16v>(column<GROUPED>(w, j, far, bytes));
            IN_REGISTER(b);
            for (int i = 0; i < MR; i++) sums[i][j] = add_pairs(sums[i][j], a[i], b);
        }
    }
    for (int i = 0; i < MR; i++, y += y_row) {
        v16* s = sums[i];
        if constexpr (NR == 8) write_sums(y, add_lanes(fold(s[0], s[1]), fold(s[2], s[3]), fold(s[4], s[5]), fold(s[6], s[7])), first);
        else if constexpr (NR == 4) write_sums(y, add_lanes(fold(s[0], s[1]), fold(s[2], s[3])), first);
        else for (int j = 0; j < NR; j++) {
            float sum = add_lanes((v8)_mm512_castps512_ps256((__m512)fold(s[j], s[j])));
            y[j] = first ? sum : y[j] + sum;
        }
    }
#else
    // Lanes 0 to 7, then 8 to 15, where all 16 of each sum do not fit the registers; else both in one go through memory.
    constexpr int HALVES = MR * NR <= 4 ? 2 : 1;
    v8 sums[MR][NR], half[HALVES][MR][NR];
    for (int h = 0; h < 2; h += HALVES) {
        for (int p = 0; p < HALVES; p++)
            for (int i = 0; i < MR; i++)
                for (int j = 0; j < NR; j++) half[p][i][j] = splat(0.f);
        const char *from = x + 32 * h, *at = w + 32 * h;
        for (int64_t k = 0; k < steps; k++, from += x_step, at += w_step)
            for (int j = 0; j < NR; j++) {
                if (!GROUPED && h == 0) __builtin_prefetch(column<GROUPED>(at, j + NR, far, bytes), 0, 2);
                for (int p = 0; p < HALVES; p++) {
                    u8v b = get<u8v>(column<GROUPED>(at, j, far, bytes) + 32 * p);
                    for (int i = 0; i < MR; i++) half[p][i][j] = add_pairs(half[p][i][j], get<u8v>(from + i * bytes + 32 * p), b);
                }
            }
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR; j++) sums[i][j] = HALVES == 2 ? half[0][i][j] + half[HALVES - 1][i][j] : h ? sums[i][j] + half[0][i][j] : half[0][i][j];
    }
    for (int i = 0; i < MR; i++, y += y_row) {
        if constexpr (NR % 4 == 0) for (int j = 0; j < NR; j += 4) write_sums(y + j, add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]), first);
        else for (int j = 0; j < NR; j++) y[j] = first ? add_lanes(sums[i][j]) : y[j] + add_lanes(sums[i][j]);
    }
#endif
}

// While it lives, this thread takes numbers below the normal ones for zeros, and makes zeros of them.
struct Flushed {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    Flushed() { _mm_setcsr(before | 0x8040); }
    ~Flushed() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    uint64_t before;
    Flushed() { __asm__ volatile("mrs %0, fpcr" : "=r"(before)); set(before | uint64_t(1) << 24); }
    ~Flushed() { set(before); }
    static void set(uint64_t to) { __asm__ volatile("msr fpcr, %0" : : "r"(to)); }
#endif
};
