// bfloat16 products on AMX: a second order, since the first one cannot be had there at speed.
//
// One instruction takes 32 elements of 16 rows of w and of 16 rows of x. For each of the 256 sums it adds the even elements'
// products from zero, one after the other, fused, and the odd ones' in the same way; it adds the two, and then that to the sum so far
// (Intel's manual, TDPBF16PS). Numbers below the normal ones are zeros. So k is cut into blocks of 32, a tail filled up with
// zeros, and the bias is added last. One row of x takes the same steps as many: rows that are not there are zeros.
//
// w is read where it is, 16 rows at once, or packed [N / 16][K / 32][16][32]; x is packed [M / 16][K / 32][16 pairs][16 rows][2].
// Where TILES_EMULATED is set the instructions are the C++ below, to test all of this, and the hardware, by.
#pragma once
#include "sums.h"
#include "tiles_emulated.h"

// GCC's tile instructions do not say what memory they read, so what was written before must be there before them.
#define WRITTEN() __asm__ volatile("" ::: "memory")

static constexpr int64_t SIDE = 16, DEPTH = 32, TILE_BYTES = SIDE * DEPTH * 2;

// 16 x 16 numbers of 4 bytes, rows to columns: in step s, squares of s x s change places.
static inline void transpose(v16* rows) {
    for (int s = 1; s < 16; s *= 2) {
        alignas(64) int32_t low[16], high[16];
        for (int l = 0; l < 16; l++) low[l] = l & s ? 16 + l - s : l, high[l] = l & s ? 16 + l : l + s;
        const __m512i to_low = get<__m512i>(low), to_high = get<__m512i>(high);
        for (int i = 0; i < 16; i++) {
            if (i & s) continue;
            const __m512 a = (__m512)rows[i], b = (__m512)rows[i + s];
            rows[i] = (v16)_mm512_permutex2var_ps(a, to_low, b);
            rows[i + s] = (v16)_mm512_permutex2var_ps(a, to_high, b);
        }
    }
}

// Up to 16 rows of `length` elements into [length / 32][16][32], filled up with zeros.
static void pack_rows(char* to, const char* from, int64_t row, int64_t rows, int64_t length) {
    for (int64_t k = 0; k < length; k += DEPTH)
        for (int64_t i = 0; i < SIDE; i++, to += 2 * DEPTH) {
            const int64_t there = i < rows ? std::min<int64_t>(DEPTH, length - k) : 0;
            if (there < DEPTH) std::memset(to, 0, 2 * DEPTH);
            std::memcpy(to, from + i * row + 2 * k, 2 * there);
        }
}

// 16 rows of w: where they are, from row to row, and from one block of k to the next. tail: the last block, filled up; null: as the others.
struct Rows {
    const char *at, *tail;
    int64_t row, step;
};

// y[16 j + m, 16 i + n] of the rows w[i] and the packed x[j] into sums[i][j], [16 n][16 m]; TALL: 4 x 1 of them, else 2 x 2.
template <bool TALL> static void multiply(const Rows* w, const char* x0, const char* x1, int64_t blocks, float sums[4][SIDE * SIDE]) {
    WRITTEN();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < blocks; k++) {
        const char* at[4];
        int64_t row[4];
        for (int i = 0; i < (TALL ? 4 : 2); i++) {
            const bool tail = w[i].tail && k == blocks - 1;
            at[i] = tail ? w[i].tail : w[i].at + k * w[i].step, row[i] = tail ? 2 * DEPTH : w[i].row;
        }
        _tile_loadd(6, x0 + k * TILE_BYTES, 64);
        _tile_loadd(4, at[0], row[0]);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, at[1], row[1]);
        if (TALL) {
            _tile_dpbf16ps(1, 5, 6);
            _tile_loadd(7, at[2], row[2]);
            _tile_dpbf16ps(2, 7, 6);
            _tile_loadd(4, at[3], row[3]);
            _tile_dpbf16ps(3, 4, 6);
        } else {
            _tile_loadd(7, x1 + k * TILE_BYTES, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
}

static void configure() {
    struct alignas(64) {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {};
    all.palette = 1;
    for (int t = 0; t < 8; t++) all.bytes[t] = 64, all.rows[t] = SIDE;
    WRITTEN();
    _tile_loadconfig(&all);
}

struct TiledWeights {
    const char* at;
    int64_t N, K, row;  // row: bytes; negative: packed
    int64_t blocks() const { return (K + DEPTH - 1) / DEPTH; }
};

// Rows n to n + 16 of w. Those that are not whole are copied to `copy`, which has room for a packed panel.
static Rows rows_at(const TiledWeights& w, int64_t n, char* copy) {
    if (w.row < 0) return {w.at + n / SIDE * w.blocks() * TILE_BYTES, nullptr, 64, TILE_BYTES};
    const int64_t there = std::max<int64_t>(0, std::min(SIDE, w.N - n)), whole = w.K / DEPTH * DEPTH;
    if (there < SIDE) {
        pack_rows(copy, w.at + n * w.row, w.row, there, w.K);
        return {copy, nullptr, 64, TILE_BYTES};
    }
    if (whole < w.K) pack_rows(copy, w.at + n * w.row + 2 * whole, w.row, there, w.K - whole);
    return {w.at + n * w.row, whole < w.K ? copy : nullptr, w.row, 64};
}

// One square of sums, [16 n][16 m], with the bias to y[m, n].
static void write_square(float* sums, const char* bias, char* y, int64_t M, int64_t N, int64_t m, int64_t n) {
    v16 rows[SIDE];
    for (int64_t i = 0; i < SIDE; i++) rows[i] = get<v16>(sums + i * SIDE);
    transpose(rows);
    const int64_t count = std::min(SIDE, N - n);
    for (int64_t i = 0; i < std::min(SIDE, M - m); i++) {
        float row[SIDE];
        put(row, rows[i]);
        char* to = y + 2 * ((m + i) * N + n);
        int64_t j = 0;
        for (; j + 8 <= count; j += 8) store_as<BF16>(to, j, bias ? load(row + j) + load_as<BF16>(bias, n + j) : load(row + j));
        for (; j < count; j++) store_one<BF16>(to, j, bias ? row[j] + one_as<BF16>(bias, n + j) : row[j]);
    }
}

static void pack_x(char* to, const char* x, int64_t x_row, int64_t rows, int64_t K) {
    pack_rows(to, x, x_row, rows, K);
    for (int64_t k = 0; k < K; k += DEPTH, to += TILE_BYTES) {
        v16 square[SIDE];
        std::memcpy(square, to, TILE_BYTES);
        transpose(square);
        std::memcpy(to, square, TILE_BYTES);
    }
}

// As detcheck_matmul of bfloat16; x_row and w.row in bytes.
static void matmul_in_tiles(const char* x, int64_t x_row, const TiledWeights& w, const char* bias, char* y, int64_t M, int64_t threads) {
    const int64_t panel = w.blocks() * TILE_BYTES, most = std::max<int64_t>(2, (int64_t(1) << 23) / std::max<int64_t>(panel, 1)) * SIDE;  // 8 MiB of x
    for (int64_t from = 0, rows; from < M; from += rows) {
        rows = std::min(most, M - from);
        const bool tall = rows <= SIDE;
        const int64_t squares = (rows + SIDE - 1) / SIDE, wide = tall ? 4 : 2, tiles = (w.N + wide * SIDE - 1) / (wide * SIDE);
        static thread_local std::vector<char> kept;
        if (int64_t(kept.size()) < (squares + 1) * panel) kept.resize((squares + 1) * panel);  // one more, that a last pair may read
        char* packed = kept.data();
        in_parallel(squares, rows * w.K < (int64_t(1) << 19) ? 1 : threads, [&](int64_t s, int64_t end) {
            for (; s < end; s++) pack_x(packed + s * panel, x + (from + s * SIDE) * x_row, x_row, std::min(SIDE, rows - s * SIDE), w.K);
        });
        std::atomic<int64_t> next(0);
        const int64_t parts = std::max<int64_t>(1, std::min((squares + 1) / 2, 2 * threads / std::max<int64_t>(tiles, 1)));
        in_parallel(std::min(threads, tiles * parts), std::min(threads, 1 + rows * w.N * w.K / (int64_t(1) << 19)), [&](int64_t, int64_t) {
            static thread_local std::vector<char> copies;
            if (int64_t(copies.size()) < 4 * panel) copies.resize(4 * panel);
            alignas(64) float sums[4][SIDE * SIDE];
            Flushed as_the_instruction_does;
            configure();
            for (int64_t t; (t = next++) < tiles * parts;) {
                const int64_t n = t / parts * wide * SIDE, part = t % parts, pairs = (squares + 1) / 2;
                Rows at[4];
                for (int64_t i = 0; i < wide; i++) at[i] = rows_at(w, w.row < 0 && n + i * SIDE >= w.N ? n : n + i * SIDE, copies.data() + i * panel);
                for (int64_t s = pairs * part / parts * 2, end = std::min(squares, pairs * (part + 1) / parts * 2); s < end; s += 2) {
                    if (tall) multiply<true>(at, packed, packed, w.blocks(), sums);
                    else multiply<false>(at, packed + s * panel, packed + (s + 1) * panel, w.blocks(), sums);
                    for (int64_t c = 0; c < 4; c++) {
                        const int64_t m = (tall ? 0 : s + c % 2) * SIDE, column = n + (tall ? c : c / 2) * SIDE;
                        if (m < rows && column < w.N) write_square(sums[c], bias, y + 2 * from * w.N, rows, w.N, m, column);
                    }
                }
            }
            _tile_release();
        });
    }
}
