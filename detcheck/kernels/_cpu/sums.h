// How the lanes of a sum become its result, where a register holds the lanes of one sum, or of two.
//
// 8 lanes are added in one fixed tree: ((0+4)+(2+6)) + ((1+5)+(3+7)).
#pragma once
#include "common.h"

static inline float add_lanes(v8 v) {
    float a = v[0] + v[4], b = v[1] + v[5], c = v[2] + v[6], d = v[3] + v[7];
    return (a + c) + (b + d);
}

// The same for four sums at once.
static inline v4 add_lanes(v8 p, v8 q, v8 r, v8 s) {
    v4 a = __builtin_shufflevector(p, p, 0, 1, 2, 3) + __builtin_shufflevector(p, p, 4, 5, 6, 7);
    v4 b = __builtin_shufflevector(q, q, 0, 1, 2, 3) + __builtin_shufflevector(q, q, 4, 5, 6, 7);
    v4 c = __builtin_shufflevector(r, r, 0, 1, 2, 3) + __builtin_shufflevector(r, r, 4, 5, 6, 7);
    v4 d = __builtin_shufflevector(s, s, 0, 1, 2, 3) + __builtin_shufflevector(s, s, 4, 5, 6, 7);
    v4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    v4 ab = ab_low + ab_high, cd = cd_low + cd_high;  // a0+a2, b0+b2, a1+a3, b1+b3
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// What is there and more, or only that.
static inline void write_sums(float* y, v4 s, bool first) {
    v4 before;
    if (!first) std::memcpy(&before, y, 16), s = before + s;
    std::memcpy(y, &s, 16);
}

#ifdef WIDE_REGISTERS
static inline v16 twice(v8 v) { return (v16)_mm512_broadcast_f32x8((__m256)v); }
static inline v16 both(v8 low, v8 high) { return (v16)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)low), (__m256)high, 1); }
template <int CHOICE> static inline v16 quarters(v16 p, v16 q) { return (v16)_mm512_shuffle_f32x4((__m512)p, (__m512)q, CHOICE); }
template <int CHOICE> static inline v16 within(v16 p, v16 q) { return (v16)_mm512_shuffle_ps((__m512)p, (__m512)q, CHOICE); }

// Eight sums of 8 lanes, two to a register.
static inline v8 add_lanes(v16 p, v16 q, v16 r, v16 s) {
    v16 pq = quarters<0x88>(p, q) + quarters<0xDD>(p, q), rs = quarters<0x88>(r, s) + quarters<0xDD>(r, s);  // l and l + 4
    v16 half = within<0x44>(pq, rs) + within<0xEE>(pq, rs);                                             // l and l + 2
    v16 sums = within<0x88>(half, half) + within<0xDD>(half, half);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    return (v8)_mm512_castps512_ps256(_mm512_permutexvar_ps(order, (__m512)sums));
}

static inline v4 add_lanes(v16 p, v16 q) {
    v8 sums = add_lanes(p, q, p, q);
    return __builtin_shufflevector(sums, sums, 0, 1, 2, 3);
}

static inline void write_sums(float* y, v8 s, bool first) { store(y, first ? s : load(y) + s); }
#endif
