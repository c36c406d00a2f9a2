// Scores: dot products of a few queries with the keys of a split, each in micro.h's order, to the bit.
//
// Few queries take the keys as they lie. Many pay for turning them: then a register holds as many keys as it has room for, and the lanes
// of a sum are added up one beside the other, as in panels.h. A head is short, so that sums laid across a register would spend a third
// of the time on adding across it.
#pragma once
#include "panels.h"

static constexpr int64_t SPLIT = 128;  // keys; part of the result's definition
static constexpr int64_t ACROSS = 4 * PANEL;  // keys turned together: four registers full
#ifdef WIDE_REGISTERS
static constexpr int LANES = 2;  // summed together: by 3 queries and 4 registers of keys, 24 sums of the 32 registers
#else
static constexpr int LANES = 1;  // 12 of 16
#endif

// to[MR, NV registers full] of queries[MR, wide] and turned keys [wide][ACROSS].
template <int MR, int NV> static inline void turned_scores(const float* queries, int64_t wide, const float* keys, float* to) {
    static constexpr int order[8] = {0, 4, 2, 6, 1, 5, 3, 7};  // neighbours are added, then their neighbours: add_lanes' tree
    vmax parts[8 / LANES][MR][NV];
    if (wide < 8) __builtin_unreachable();  // told so, compilers keep the sums in registers
    for (int pass = 0; pass < 8 / LANES; pass++) {
        vmax sums[LANES][MR][NV];
        for (int l = 0; l < LANES; l++)
            for (int i = 0; i < MR; i++)
                for (int j = 0; j < NV; j++) sums[l][i][j] = vmax{};
        for (int64_t d = order[pass * LANES]; d < wide; d += 8)
            for (int l = 0; l < LANES; l++) {
                const int64_t at = d + 4 * l;
                vmax columns[NV];
                for (int j = 0; j < NV; j++) {
                    vmax column = get<vmax>(keys + at * ACROSS + j * PANEL);
                    IN_REGISTER(column);
                    columns[j] = column;
                }
                for (int i = 0; i < MR; i++) {
                    vmax number = queries[i * wide + at] - vmax{};
                    IN_REGISTER(number);
                    for (int j = 0; j < NV; j++) sums[l][i][j] = fma(number, columns[j], sums[l][i][j]);
                }
            }
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NV; j++) parts[pass][i][j] = LANES == 2 ? sums[0][i][j] + sums[LANES - 1][i][j] : sums[0][i][j];
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) {
            auto p = [&](int lane) { return parts[lane][i][j]; };
            if constexpr (LANES == 2) put(to + i * SPLIT + j * PANEL, (p(0) + p(1)) + (p(2) + p(3)));
            else put(to + i * SPLIT + j * PANEL, ((p(0) + p(1)) + (p(2) + p(3))) + ((p(4) + p(5)) + (p(6) + p(7))));
        }
}

template <int MR> static inline void turned_scores(const float* queries, int64_t wide, const float* keys, float* to, int64_t count) {
    if (count > 3 * PANEL) return turned_scores<MR, 4>(queries, wide, keys, to);
    if (count > 2 * PANEL) return turned_scores<MR, 3>(queries, wide, keys, to);
    if (count > PANEL) return turned_scores<MR, 2>(queries, wide, keys, to);
    turned_scores<MR, 1>(queries, wide, keys, to);
}

// to[R, SPLIT] of queries[R, wide] and turned keys; row r sees seen[r] of them, and what is behind those may be anything.
static void turned_scores(const float* queries, int64_t R, const float* keys, const int64_t* seen, float* to, int64_t wide) {
    const int64_t most = *std::max_element(seen, seen + R);
    for (int64_t j = 0; j < most; j += ACROSS, keys += wide * ACROSS)
        for (int64_t r = 0, n; r < R; r += n) {
            n = std::min<int64_t>(3, R - r);
            const int64_t count = *std::max_element(seen + r, seen + r + n) - j;
            if (count <= 0) continue;
            if (n == 3) turned_scores<3>(queries + r * wide, wide, keys, to + r * SPLIT + j, count);
            if (n == 2) turned_scores<2>(queries + r * wide, wide, keys, to + r * SPLIT + j, count);
            if (n == 1) turned_scores<1>(queries + r * wide, wide, keys, to + r * SPLIT + j, count);
        }
}

// 8 elements of a row from d on as float32; those that are not there are zeros.
template <int DT> static inline v8 filled_up(const char* row, int64_t d, int64_t D) {
    if (d + 8 <= D) return load_as<DT>(row, d);
    v8 v = {};
    for (int64_t j = 0; d + j < D; j++) v[j] = one_as<DT>(row, d + j);
    return v;
}

// Keys begin .. begin + keys of a split, rows stride_bytes apart, turned: [SPLIT / ACROSS][wide][ACROSS].
template <int DT> static void turn_keys(const char* from, int64_t stride_bytes, int64_t begin, int64_t keys, int64_t D, float* to, int64_t wide) {
    for (int64_t k = begin, n; k < begin + keys; k += n, from += n * stride_bytes) {
        n = k % 4 == 0 && k + 4 <= begin + keys ? 4 : 1;
        float* at = to + k / ACROSS * wide * ACROSS + k % ACROSS;
        for (int64_t d = 0; d < wide; d += 8, at += 8 * ACROSS) {
            v8 r[4];
            for (int64_t j = 0; j < n; j++) r[j] = filled_up<DT>(from + j * stride_bytes, d, D);
            if (n == 1) {
                for (int64_t j = 0; j < 8; j++) at[j * ACROSS] = r[0][j];
                continue;
            }
            auto low = [&](int64_t j) { return __builtin_shufflevector(r[j], r[j], 0, 1, 2, 3); };
            auto high = [&](int64_t j) { return __builtin_shufflevector(r[j], r[j], 4, 5, 6, 7); };
            turn(reinterpret_cast<char*>(at), 4 * ACROSS, low(0), low(1), low(2), low(3));
            turn(reinterpret_cast<char*>(at + 4 * ACROSS), 4 * ACROSS, high(0), high(1), high(2), high(3));
        }
    }
}

// to[R, NR] = queries[R, wide] times NR keys of dtype AS, in rows key_bytes apart.
template <int NR, int AS> static inline void scores(const float* queries, int64_t R, const char* keys, int64_t key_bytes, float* to, int64_t wide) {
    int64_t r = 0;
    auto rows = [&](auto height) {
        constexpr int MR = decltype(height)::value;
        for (; r + MR <= R; r += MR) dots<MR, NR, AS, false>(reinterpret_cast<const char*>(queries + r * wide), wide * 4, 32, keys, key_bytes, 8 * bytes_of(AS), to + r * SPLIT, SPLIT, wide / 8, true);
    };
    rows(std::integral_constant<int, 3>());
    rows(std::integral_constant<int, 2>());
    rows(std::integral_constant<int, 1>());
}

// to[R, count], of keys as they lie.
template <int AS> static void scores_of_rows(const float* queries, int64_t R, const char* keys, int64_t key_bytes, int64_t count, float* to, int64_t wide) {
    int64_t j = 0;
    auto some = [&](auto width) {
        constexpr int NR = decltype(width)::value;
        for (; j + NR <= count; j += NR) scores<NR, AS>(queries, R, keys + j * key_bytes, key_bytes, to + j, wide);
    };
    some(std::integral_constant<int, WIDE>());
    some(std::integral_constant<int, 4>());
    some(std::integral_constant<int, 1>());
}
