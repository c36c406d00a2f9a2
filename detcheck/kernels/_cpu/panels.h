// Products with a weight that was packed once and for all: a register holds as many outputs as it has room for, side by side.
//
// The order is micro.h's, to the bit: each output still has 8 lanes. Here they are summed one lane after the other rather than side
// by side in a register, so that a pass is the plain inner loop of a matrix product, and nothing is added across a register at its end.
//
// Panels: PANEL rows of w, [K block][lane][step][PANEL], a pair of bfloat16 where the other dtypes have one element. x is laid out alike,
// [K block][lane][step][rows of a tile].
#pragma once
#include <atomic>
#include "micro.h"

static constexpr int64_t PANEL = sizeof(vmax) / 4;
#if defined(WIDE_REGISTERS)
static constexpr int64_t TILE_ROWS = 8;  // by 3 panels: 24 sums of the 32 registers
#else
static constexpr int64_t TILE_ROWS = 4;  // by 3 panels: 12 of 16
#endif
static constexpr int64_t PANEL_ROWS = 48;  // rows of x that meet a block of three panels while it is in the L2 cache
static constexpr int64_t SOME_PANELS = 6;  // that a thread takes at once

template <int DT> struct Subnormals {};  // are kept,
template <> struct Subnormals<BF16> : Flushed {};

// What makes a sum of pairs in one instruction needs fewer registers.
#ifdef __AVX512BF16__
template <int DT> static constexpr int PANELS = 3;
#else
template <int DT> static constexpr int PANELS = DT == BF16 ? 2 : 3;
#endif

// Calls body(k, elements, steps) for each block of K: what does not fill a step is a block of its own.
template <int DT, typename Body> static inline void for_blocks(int64_t K, const Body& body) {
    constexpr int64_t step = Order<DT>::STEP;
    const int64_t whole = K / step * step;
    for (int64_t k = 0, length; k < K; k += length) {
        length = k == whole ? K - whole : std::min(Order<DT>::BLOCK_K, whole - k);
        body(k, length, (length + step - 1) / step);
    }
}

// A number of x, or a pair of bfloat16, in all places.
template <int DT> static inline vmax everywhere(const char* number) {
    if constexpr (DT != BF16) return get<float>(number) - vmax{};
    const uint32_t bits = get<uint32_t>(number);
#ifdef WIDE_REGISTERS
    return (vmax)_mm512_set1_epi32(int(bits));
#else
    return (vmax)u8v{bits, bits, bits, bits, bits, bits, bits, bits};
#endif
}

template <int DT> static inline vmax panel_step(const char* p) {
#ifdef WIDE_REGISTERS
    if constexpr (DT == F16) return (vmax)_mm512_cvtph_ps(get<__m256i>(p));
#else
    if constexpr (DT == F16) return load_as<F16>(p, 0);
#endif
    return get<vmax>(p);
}

// One lane of MR rows by NP panels over a block of K, to sums[MR][NP]. far: bytes from panel to panel.
template <int MR, int NP, int DT>
static inline void lane_sums(const char* x, const char* w, int64_t far, vmax* to, int64_t steps) {
    vmax sums[MR][NP];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NP; j++) sums[i][j] = vmax{};
    if (steps < 1) __builtin_unreachable();  // told so, compilers keep the sums in registers
    for (int64_t k = 0; k < steps; k++, x += MR * 4, w += PANEL * (DT == F16 ? 2 : 4)) {
        vmax columns[NP];
        for (int j = 0; j < NP; j++) columns[j] = panel_step<DT>(w + j * far);
        for (int i = 0; i < MR; i++) {
            vmax number = everywhere<DT>(x + i * 4);
            IN_REGISTER(number);
            for (int j = 0; j < NP; j++) sums[i][j] = add<DT>(sums[i][j], number, columns[j]);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NP; j++) to[i * NP + j] = sums[i][j];
}

// Rows of x in tiles of at most TILE_ROWS, as even as they come. A tile is filled up with zeros to a size that there is.
struct RowTiles {
    int64_t M, count;
    explicit RowTiles(int64_t M) : M(M), count((M + TILE_ROWS - 1) / TILE_ROWS) {}
    int64_t begin(int64_t t) const { return M * t / count; }
    int64_t rows(int64_t t) const { return begin(t + 1) - begin(t); }
    static int64_t filled(int64_t rows) { return rows <= 4 ? rows : (rows + 1) / 2 * 2; }
};

template <int NP, int DT>
static inline void lane_of_tile(int64_t rows, const char* x, const char* w, int64_t far, vmax* to, int64_t steps) {
    switch (RowTiles::filled(rows)) {
        case 1: return lane_sums<1, NP, DT>(x, w, far, to, steps);
        case 2: return lane_sums<2, NP, DT>(x, w, far, to, steps);
        case 3: return lane_sums<3, NP, DT>(x, w, far, to, steps);
        case 4: return lane_sums<4, NP, DT>(x, w, far, to, steps);
#ifdef WIDE_REGISTERS
        case 6: return lane_sums<6, NP, DT>(x, w, far, to, steps);
        case 8: return lane_sums<8, NP, DT>(x, w, far, to, steps);
#endif
    }
}

// NP panels from w on for the tiles of x from `from` to `to`, by all of K, to y[tile][TILE_ROWS][NP]. lanes: room for a tile's 8.
template <int NP, int DT>
static void some_panels(const RowTiles& tiles, int64_t from, int64_t to, const char* x, int64_t tile_bytes, const char* w, int64_t far, int64_t K, vmax* lanes, vmax* y) {
    constexpr int64_t unit = DT == F16 ? 2 : 4, some = TILE_ROWS * NP;
    for_blocks<DT>(K, [&](int64_t k, int64_t, int64_t steps) {
        const char* block = w + k * PANEL * (DT == F32 ? 4 : 2);
        for (int64_t t = from; t < to; t++) {
            const int64_t rows = tiles.rows(t), size = RowTiles::filled(rows) * 4;
            const char* a = x + t * tile_bytes + k / Order<DT>::STEP * 8 * size;
            for (int64_t lane = 0; lane < 8; lane++) {
                const char* part = block + lane * steps * PANEL * unit;
                lane_of_tile<NP, DT>(rows, a + lane * steps * size, part, far, lanes + lane * some, steps);
            }
            for (int64_t i = 0; i < rows * NP; i++) {
                auto p = [&](int64_t lane) { return lanes[lane * some + i]; };
                vmax sum = ((p(0) + p(4)) + (p(2) + p(6))) + ((p(1) + p(5)) + (p(3) + p(7)));  // as add_lanes does
                vmax& sums = y[(t - from) * some + i];
                sums = k == 0 ? sum : sums + sum;
            }
        }
    });
}

// A step of one row as 8 numbers of 4 bytes; what is not there is zero.
template <int DT> static inline v8 lanes_of(const char* from, int64_t there) {
    if (there == Order<DT>::STEP) return step<DT>(from);
    v8 lanes = {};
    for (int64_t j = 0; j < there; j++) {
        if constexpr (DT == BF16) std::memcpy(reinterpret_cast<char*>(&lanes) + 2 * j, from + 2 * j, 2);
        else lanes[j] = one_as<DT>(from, j);
    }
    return lanes;
}

// Four lanes of four rows, turned: to[lane][row].
static inline void turn(char* to, int64_t lane_bytes, v4 a, v4 b, v4 c, v4 d) {
    v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    put(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    put(to + lane_bytes, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    ab = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    put(to + 2 * lane_bytes, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    put(to + 3 * lane_bytes, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
}

// `rows` rows of x as one tile: [K block][lane][step][filled rows] of 4 bytes.
template <int DT> static void pack_row_tile(char* to, const char* x, int64_t stride_bytes, int64_t rows, int64_t K) {
    constexpr int64_t size = DT == F32 ? 4 : 2, in_step = Order<DT>::STEP;
    const int64_t filled = RowTiles::filled(rows);
    for_blocks<DT>(K, [&](int64_t k, int64_t length, int64_t steps) {
        const int64_t lane_bytes = steps * filled * 4;
        for (int64_t s = 0; s < steps; s++) {
            const int64_t there = std::min(in_step, length - s * in_step);
            const char* from = x + (k + s * in_step) * size;
            char* at = to + (k / in_step * 8 + s) * filled * 4;
            int64_t i = 0;
            for (; i + 4 <= rows && there == in_step; i += 4) {
                v8 r[4];
                for (int64_t j = 0; j < 4; j++) r[j] = step<DT>(from + (i + j) * stride_bytes);
                auto half = [&](v8 v, bool high) { return high ? __builtin_shufflevector(v, v, 4, 5, 6, 7) : __builtin_shufflevector(v, v, 0, 1, 2, 3); };
                turn(at + i * 4, lane_bytes, half(r[0], false), half(r[1], false), half(r[2], false), half(r[3], false));
                turn(at + i * 4 + 4 * lane_bytes, lane_bytes, half(r[0], true), half(r[1], true), half(r[2], true), half(r[3], true));
            }
            for (; i < filled; i++) {
                v8 lanes = i < rows ? lanes_of<DT>(from + i * stride_bytes, there) : v8{};
                for (int64_t lane = 0; lane < 8; lane++) {
                    float number = lanes[lane];
                    std::memcpy(at + lane * lane_bytes + i * 4, &number, 4);
                }
            }
        }
    });
}

// `rows` rows of w, at most PANEL, as one panel; what is not there is zero.
template <int DT> static void pack_panel(char* to, const char* w, int64_t stride_bytes, int64_t rows, int64_t K) {
    constexpr int64_t step = Order<DT>::STEP, size = DT == F32 ? 4 : 2, unit = DT == F32 || DT == BF16 ? 4 : 2;
    for_blocks<DT>(K, [&](int64_t k, int64_t length, int64_t steps) {
        char* block = to + k * PANEL * size;
        std::memset(block, 0, steps * step * PANEL * size);
        for (int64_t n = 0; n < rows; n++)
            for (int64_t j = 0; j < length; j += unit / size) {
                const char* from = w + n * stride_bytes + (k + j) * size;
                char* at = block + ((j % step / (unit / size) * steps + j / step) * PANEL + n) * unit;
                std::memcpy(at, from, std::min<int64_t>(unit, (length - j) * size));
            }
    });
}

// Sums of `count` outputs, as y has them.
template <int DT> static inline void write_row(char* y, const float* sums, const char* bias, int64_t n, int64_t count) {
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) store_as<DT>(y, j, bias ? load(sums + j) + load_as<DT>(bias, n + j) : load(sums + j));
    for (; j < count; j++) store_one<DT>(y, j, bias ? sums[j] + one_as<DT>(bias, n + j) : sums[j]);
}

// y[M, N] = x @ w.T + bias with a w of panels. packed: room for M + TILE_ROWS * 8 rows of x.
template <int DT>
static void matmul_in_panels(const char* x, int64_t x_row, const char* w, int64_t N, int64_t K, const char* bias, char* y, char* packed, int64_t M, int64_t threads) {
    constexpr int64_t step = Order<DT>::STEP, together = PANEL_ROWS / TILE_ROWS;
    const int64_t size = bytes_of(DT), wide = (K + step - 1) / step * step, panels = (N + PANEL - 1) / PANEL;
    const int64_t panel_bytes = PANEL * wide * size, tile_bytes = TILE_ROWS * wide / step * 32;
    if (panels == 0) return;
    const RowTiles tiles(M);
    in_parallel(tiles.count, M * K < (int64_t(1) << 16) ? 1 : threads, [&](int64_t t, int64_t end) {
        for (; t < end; t++) pack_row_tile<DT>(packed + t * tile_bytes, x + tiles.begin(t) * x_row, x_row, tiles.rows(t), K);
    });
    // Panels are dealt out in groups, as threads are free; rows are divided too where there are too few.
    const int64_t groups = std::min(panels, threads * ((panels + threads * SOME_PANELS - 1) / (threads * SOME_PANELS)));
    const int64_t sets = (tiles.count + together - 1) / together, parts = std::min(sets, (2 * threads + groups - 1) / groups);
    std::atomic<int64_t> next(0);
    in_parallel(std::min(threads, groups * parts), threads, [&](int64_t, int64_t) {
        Subnormals<DT> as_the_order_has_them;
        vmax lanes[TILE_ROWS * 3 * 8], sums[PANEL_ROWS * 3];
        for (int64_t item; (item = next++) < groups * parts;) {
            const int64_t group = item / parts, part = item % parts, panels_end = panels * (group + 1) / groups;
            for (int64_t p = panels * group / groups, some; p < panels_end; p += some) {
                const int64_t left = panels_end - p, n = p * PANEL;
                some = PANELS<DT> == 3 && (left == 3 || left > 4) ? 3 : std::min<int64_t>(left, 2);
                auto add_up = some == 3 ? some_panels<PANELS<DT>, DT> : some == 2 ? some_panels<2, DT> : some_panels<1, DT>;
                for (int64_t set = sets * part / parts; set < sets * (part + 1) / parts; set++) {
                    const int64_t from = set * together, to = std::min(from + together, tiles.count);
                    if (K == 0) std::fill(sums, sums + PANEL_ROWS * 3, vmax{});
                    add_up(tiles, from, to, packed, tile_bytes, w + p * panel_bytes, panel_bytes, K, lanes, sums);
                    for (int64_t t = from; t < to; t++)
                        for (int64_t i = 0; i < tiles.rows(t); i++) {
                            const float* row = reinterpret_cast<float*>(sums + ((t - from) * TILE_ROWS + i) * some);
                            write_row<DT>(y + ((tiles.begin(t) + i) * N + n) * size, row, bias, n, std::min(some * PANEL, N - n));
                        }
                }
            }
        }
    });
}
