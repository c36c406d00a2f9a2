// Weights of a split's keys out of their scores, and the sums of the values that they weigh.
#pragma once
#include "scores.h"

#ifdef WIDE_REGISTERS
static constexpr int TOGETHER = 6;  // queries that values are added to together: by 4 registers, 24 sums of 32
#else
static constexpr int TOGETHER = 3;  // 12 of 16
#endif

// out[MR, D] += p[MR, keys] * v[keys, D] of dtype AS, in rows v_bytes apart, for NV vectors of the dimensions from d on
template <int MR, int NV, int AS, typename V> static inline void add_values_at(const float* p, const char* v, int64_t v_bytes, float* out, int64_t D, int64_t d, int64_t keys) {
    constexpr int64_t width = sizeof(V) / 4;
    V sums[MR][NV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) sums[i][j] = get<V>(out + i * D + d + width * j);
    v += d * bytes_of(AS);
    for (int64_t k = 0; k < keys; k++, v += v_bytes) {
        V x[NV];
        for (int j = 0; j < NV; j++) x[j] = load_all<AS, V>(v + width * j * bytes_of(AS));
        for (int i = 0; i < MR; i++) {
            V weight = p[i * SPLIT + k] - V{};
            IN_REGISTER(weight);
            for (int j = 0; j < NV; j++) sums[i][j] = fma(weight, x[j], sums[i][j]);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) put(out + i * D + d + width * j, sums[i][j]);
}

template <int MR, int AS> static inline void add_values(const float* p, const char* v, int64_t v_bytes, float* out, int64_t D, int64_t keys) {
    constexpr int64_t most = sizeof(vmax);  // 4 registers full
    int64_t d = 0;
    for (; d + most <= D; d += most) add_values_at<MR, 4, AS, vmax>(p, v, v_bytes, out, D, d, keys);
    if (most > 32) for (; d + 32 <= D; d += 32) add_values_at<MR, 4, AS, v8>(p, v, v_bytes, out, D, d, keys);
    for (; d < D; d += 8) add_values_at<MR, 1, AS, v8>(p, v, v_bytes, out, D, d, keys);
}

// Keys begin .. begin + keys of a split, and where they are.
struct Piece {
    const char *k, *v;
    int64_t begin, keys;
};

// Values of a piece to the sums of rows r to r_end, each as far as it sees.
template <int AS> static void add_piece(const float* scores, const Piece& piece, int64_t v_bytes, const int64_t* seen, float* sums, int64_t wide, int64_t r, int64_t r_end) {
    for (int64_t n; r < r_end; r += n) {
        n = r_end - r >= TOGETHER ? TOGETHER : std::min<int64_t>(3, r_end - r);
        auto here = [&](int64_t seen_keys) { return std::max<int64_t>(0, std::min(piece.keys, seen_keys - piece.begin)); };
        const int64_t common = here(*std::min_element(seen + r, seen + r + n));
        const float* p = scores + r * SPLIT + piece.begin;
        float* o = sums + r * wide;
        if (TOGETHER > 3 && n == TOGETHER) add_values<TOGETHER, AS>(p, piece.v, v_bytes, o, wide, common);
        if (n == 3) add_values<3, AS>(p, piece.v, v_bytes, o, wide, common);
        if (n == 2) add_values<2, AS>(p, piece.v, v_bytes, o, wide, common);
        if (n == 1) add_values<1, AS>(p, piece.v, v_bytes, o, wide, common);
        for (int64_t i = 0; i < n; i++)
            if (int64_t rest = here(seen[r + i]) - common) add_values<1, AS>(p + i * SPLIT + common, piece.v + common * v_bytes, v_bytes, o + i * wide, wide, rest);
    }
}

// The larger of each two; b where one of them is NaN.
template <typename V> static inline V larger(V a, V b) { return a > b ? a : b; }

#ifdef WIDE_REGISTERS
static inline v8 half(v16 v, bool high) { return high ? __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15) : __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
static inline v8 largest_lanes(v16 v) { return larger(half(v, true), half(v, false)); }
static inline v8 added(v8 sum, v16 v) { return (sum + half(v, false)) + half(v, true); }
#endif
static inline v8 largest_lanes(v8 v) { return v; }
static inline v8 added(v8 sum, v8 v) { return sum + v; }

// Numbers behind the first n to -infinity, up to a whole register, and how many there are then: they will add zeros.
static inline int64_t hide(float* x, int64_t n) {
    typedef decltype(vmax{} < vmax{}) I;
    static constexpr int32_t places[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const int64_t whole = n / PANEL * PANEL;
    if (whole == n) return n;
    // All at once: written one by one they could not be read at once, without a wait.
    put(x + whole, get<I>(places) < int32_t(n - whole) ? get<vmax>(x + whole) : -std::numeric_limits<float>::infinity() - vmax{});
    return whole + PANEL;
}

// The largest of n numbers and `most`, a multiple of PANEL; the last NaN if there is one.
static inline float highest(const float* x, int64_t n, float most) {
    vmax top = most - vmax{}, bad = vmax{};
    for (int64_t i = 0; i < n; i += PANEL) {
        vmax v = get<vmax>(x + i);
        top = larger(v, top), bad = v == v ? bad : v;
    }
    v8 lanes = largest_lanes(top);
    v4 four = larger(__builtin_shufflevector(lanes, lanes, 0, 1, 2, 3), __builtin_shufflevector(lanes, lanes, 4, 5, 6, 7));
    const float any = add_lanes(added(splat(most == most ? 0.f : most), bad));
    if (any == any) return std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
    float nan = most;
    for (int64_t j = 0; j < PANEL; j++) nan = bad[j] == bad[j] ? nan : bad[j];
    return nan;
}

// x to exp(x), which is at most 1 here, or NaN: to the bits of exp (common.h), in half the steps, since nothing is too large. Several at
// once and step by step: each step waits for the one before it, and a processor does not look far enough ahead to fill the time.
template <int N> static inline void exp_down(vmax (&x)[N]) {
    typedef decltype(vmax{} < vmax{}) I;  // int32 in as many lanes
    auto all = [](float value) { return value - vmax{}; };
    const vmax low = all(-87.33654f), shift = all(12582912.f);
    vmax scale[N], r[N], p[N];
    for (int i = 0; i < N; i++) r[i] = larger(low, x[i]);
    for (int i = 0; i < N; i++) scale[i] = fma(r[i], all(1.44269504f), shift);  // n is in its last bits
    for (int i = 0; i < N; i++) p[i] = scale[i] - shift;
    for (int i = 0; i < N; i++) r[i] = fma(p[i], all(-0.693359375f), r[i]);
    for (int i = 0; i < N; i++) r[i] = fma(p[i], all(2.12194440e-4f), r[i]);
    for (int i = 0; i < N; i++) p[i] = fma(all(1.9875691500e-4f), r[i], all(1.3981999507e-3f));
    for (int i = 0; i < N; i++) p[i] = fma(p[i], r[i], all(8.3334519073e-3f));
    for (int i = 0; i < N; i++) p[i] = fma(p[i], r[i], all(4.1665795894e-2f));
    for (int i = 0; i < N; i++) p[i] = fma(p[i], r[i], all(1.6666665459e-1f));
    for (int i = 0; i < N; i++) p[i] = fma(p[i], r[i], all(5.0000001201e-1f));
    for (int i = 0; i < N; i++) p[i] = fma(p[i], r[i] * r[i], r[i]) + all(1.f);
    for (int i = 0; i < N; i++) {
        I bits = get<I>(&scale[i]);
        bits = (bits << 23) + (127 << 23);
        x[i] = x[i] < low ? vmax{} : p[i] * get<vmax>(&bits);
    }
}

// N registers full of x to exp(x - top), where top is the largest, and their sum in 8 lanes to what is in sum.
template <int N> static inline v8 raise(float* x, float top, v8 sum) {
    vmax e[N];
    for (int i = 0; i < N; i++) e[i] = get<vmax>(x + i * PANEL) - (top - vmax{});
    exp_down<N>(e);
    for (int i = 0; i < N; i++) {
        put(x + i * PANEL, e[i]);
        sum = added(sum, e[i]);
    }
    return sum;
}

// The same for n numbers, a multiple of PANEL.
static inline v8 raise(float* x, int64_t n, float top) {
    constexpr int N = 2;
    v8 sum = splat(0.f);
    int64_t i = 0;
    for (; i + N * PANEL <= n; i += N * PANEL) sum = raise<N>(x + i, top, sum);
    for (; i < n; i += PANEL) sum = raise<1>(x + i, top, sum);
    return sum;
}
