// A few dot products side by side, each in the order that its length alone decides.
//
// Of float32 and float16: lane j of 8 takes elements j, j + 8, j + 16 ... one after the other, product fused into sum.
// Of bfloat16 (`pairs`): lane j of 8 takes pairs of elements j, j + 8, j + 16 ..., the second of a pair before the first, and numbers
// below the normal ones are zeros: what AVX512_BF16 does in one instruction, and any processor in two.
// Then the lanes are added, see sums.h.
#pragma once
#include "sums.h"

// What a lane takes in a step, and what x is packed as: bfloat16 stays what it is, float16 becomes float32.
template <int DT> struct Order {
    static constexpr int64_t STEP = DT == BF16 ? 16 : 8, BLOCK_K = DT == BF16 ? 2048 : 1024;  // elements
    static constexpr int64_t bytes = DT == F16 || DT == WIDENED ? 16 : 32;                                   // of a step of w
    typedef std::conditional_t<DT == BF16, uint16_t, float> X;                               // a step of x has 32 bytes
};

static constexpr int64_t GROUP_N = 4;  // rows of w packed side by side
#ifdef WIDE_REGISTERS
static constexpr int WIDE = 16, WIDE_ROWS = 8;  // columns that keep the registers full; where w is in rows, more would push each other out of the cache
#else
static constexpr int WIDE = 4, WIDE_ROWS = 4;
#endif

// Where column j is: rows `far` bytes apart, or (GROUPED) packed in groups, `far` bytes from one group to the next.
template <int DT, bool GROUPED> static inline const char* column(const char* w, int j, int64_t far) {
    return GROUPED ? w + j / GROUP_N * far + j % GROUP_N * Order<DT>::bytes : w + j * far;
}

// A step as the lanes take it.
template <int DT> static inline v8 step(const char* p) {
    if constexpr (DT == BF16) return get<v8>(p);
    else return load_as<DT>(p, 0);
}

// sum + odd * odd, + even * even, of pairs of bfloat16.
template <typename V, typename U> static inline V add_pairs_in_two(V sum, V x, V y) {
    U a = (U)x, b = (U)y, a_odd = a & 0xFFFF0000u, b_odd = b & 0xFFFF0000u, a_even = a << 16, b_even = b << 16;
    return fma((V)a_even, (V)b_even, fma((V)a_odd, (V)b_odd, sum));
}

template <int DT> static inline v8 add(v8 sum, v8 a, v8 b) {
    if constexpr (DT == BF16) return add_pairs_in_two<v8, u8v>(sum, a, b);
    else return fma(a, b, sum);
}

#ifdef WIDE_REGISTERS
typedef uint32_t u16v __attribute__((vector_size(64)));

#ifdef __AVX512BF16__
static inline v16 add_pairs(v16 sum, v16 a, v16 b) { return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
static inline v16 add_pairs(v16 sum, v16 a, v16 b) { return add_pairs_in_two<v16, u16v>(sum, a, b); }
#endif

template <int DT> static inline v16 add(v16 sum, v16 a, v16 b) {
    if constexpr (DT == BF16) return add_pairs(sum, a, b);
    else return fma(a, b, sum);
}

// A step of columns j and j + 1.
template <int DT, bool GROUPED> static inline v16 two_columns(const char* w, int j, int64_t far) {
    const char* p = column<DT, GROUPED>(w, j, far);
    if constexpr (GROUPED) return load_all<DT == F16 ? int(F16) : int(F32), v16>(p);
    const char* next = column<DT, GROUPED>(w, j + 1, far);
    if constexpr (DT == F16 || DT == WIDENED) {  // both become float32 at once
        return as_floats<DT>(_mm256_inserti128_si256(_mm256_castsi128_si256(get<__m128i>(p)), get<__m128i>(next), 1));
    }
    return both(step<DT>(p), step<DT>(next));
}
#endif

// Has memory fetch the next columns of a w in rows: rows of half precision are short, and the processor does not guess. No effect on bits.
template <int NR, int DT, bool GROUPED> static inline void fetch_next(const char* w, int j, int64_t far, int64_t k) {
    constexpr bool needed = !GROUPED && (DT == BF16 || DT == F16);
    if (needed && k % (64 / Order<DT>::bytes) == 0) __builtin_prefetch(column<DT, GROUPED>(w, j + NR, far), 0, 2);
}

// MR x NR sums over `steps` steps, written to y[MR, NR], or added to what is there. x: row i at x + i * x_row, a step x_step further
// on, in bytes; w_step: bytes from one step of w to the next; y_row: numbers from row to row. bfloat16 needs `Flushed`.
template <int MR, int NR, int DT, bool GROUPED>
static inline void dots(const char* x, int64_t x_row, int64_t x_step, const char* w, int64_t far, int64_t w_step, float* y, int64_t y_row, int64_t steps, bool first) {
#ifdef WIDE_REGISTERS
    if constexpr (NR % 4 == 0) {
        v16 sums[MR][NR / 2];
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NR / 2; j++) sums[i][j] = twice(splat(0.f));
        for (int64_t k = 0; k < steps; k++, x += x_step, w += w_step) {
            v16 a[MR];
            for (int i = 0; i < MR; i++) {
                a[i] = twice(get<v8>(x + i * x_row));
                IN_REGISTER(a[i]);
            }
            for (int j = 0; j < NR / 2; j++) {
                fetch_next<NR, DT, GROUPED>(w, 2 * j, far, k);
                fetch_next<NR, DT, GROUPED>(w, 2 * j + 1, far, k);
                v16 b = two_columns<DT, GROUPED>(w, 2 * j, far);
                IN_REGISTER(b);
                for (int i = 0; i < MR; i++) sums[i][j] = add<DT>(sums[i][j], a[i], b);
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
            a[i] = get<v8>(x + i * x_row);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < NR; j++) {
            fetch_next<NR, DT, GROUPED>(w, j, far, k);
            v8 b = step<DT>(column<DT, GROUPED>(w, j, far));
            IN_REGISTER(b);
            for (int i = 0; i < MR; i++) sums[i][j] = add<DT>(sums[i][j], a[i], b);
        }
    }
    for (int i = 0; i < MR; i++, y += y_row) {
        if constexpr (NR % 4 == 0) for (int j = 0; j < NR; j += 4) write_sums(y + j, add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]), first);
        else for (int j = 0; j < NR; j++) y[j] = first ? add_lanes(sums[i][j]) : y[j] + add_lanes(sums[i][j]);
    }
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
