// y[m, n] = bias[n] + sum over k of x[m, k] * w[n, k], each output by itself in one order.
//
// The order: k is cut into blocks of BLOCK_K from 0 on. In a block lane j of 8 takes k = j, j + 8, j + 16 ... one after the
// other, product fused into sum; the lanes are added in the tree of add_lanes; block sums are added from left to right, the
// bias last. A tail that does not fill 8 lanes is a block of its own, filled up with zeros. Tiles, packing and threads only
// group outputs: every one of them is computed by `micro`, in the same steps.
//
// Packed: rows side by side in steps of 8 elements, [k / 8][rows][8], so that the inner loop reads two streams and rows a power
// of two apart do not push each other out of the cache. x is packed always; w where the caller did it once and for all
// (detcheck_pack), or where there are rows enough to pay for it.
#include <atomic>
#include "_cpu.h"

static constexpr int64_t BLOCK_K = 1024;            // part of the result's definition
static constexpr int64_t GROUP_N = 4;               // rows of w packed side by side
static constexpr int64_t TILE_N = 128;              // outputs that a thread takes at once, at most: as many rows of w by BLOCK_K
static constexpr int64_t TILE_M = 48;               // rows of x, in the L2 cache, that each group of w meets while it is in the L1 cache
static constexpr int64_t PACK_FROM = 12;            // rows of x that pay for packing w in the call
static constexpr int64_t PACKED_X = int64_t(1) << 21;  // elements of x packed at a time: 8 MiB, kept from call to call
static constexpr int64_t THREAD_WORK = int64_t(1) << 19;  // products that pay for waking a thread

// Rows of x that go through w together: threes keep 12 sums in flight, and 2 + 2 beats 3 + 1.
static inline int64_t group_of(int64_t left) { return left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3; }

// The M rows of x in blocks of TILE_M, cut between groups: a last block would not be of one or two rows.
struct Blocks {
    int64_t M, count;
    explicit Blocks(int64_t M) : M(M), count(std::max<int64_t>(1, M / TILE_M + (M % TILE_M >= 3))) {}
    int64_t begin(int64_t b) const { return b == count ? M : b * TILE_M; }
};

// MR x NR outputs over `steps` steps of 8 elements. x: packed; w: packed in groups, `far` bytes from one group to the next, or
// (GROUPED false) rows `far` bytes apart. Written, or added to what is there.
template <int MR, int NR, int DT, bool GROUPED>
static inline void micro(const float* x, const char* w, int64_t far, float* y, int64_t steps, bool first) {
    constexpr int64_t bytes = DT == F32 ? 32 : 16, step = GROUPED ? GROUP_N * bytes : bytes;
    v8 sums[MR][NR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) sums[i][j] = splat(0.f);
    for (int64_t k = 0; k < steps; k++, x += 8 * MR, w += step) {
        v8 a[MR];
        for (int i = 0; i < MR; i++) {
            a[i] = load(x + 8 * i);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < NR; j++) {
            v8 b = load_as<DT>(GROUPED ? w + j / GROUP_N * far + j % GROUP_N * bytes : w + j * far, 0);
            IN_REGISTER(b);
            for (int i = 0; i < MR; i++) sums[i][j] = fma(a[i], b, sums[i][j]);
        }
    }
    for (int i = 0; i < MR; i++, y += TILE_N) {
        if constexpr (NR % 4 == 0) {
            for (int j = 0; j < NR; j += 4) {
                v4 s = add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]), before;
                if (!first) std::memcpy(&before, y + j, 16), s = before + s;
                std::memcpy(y + j, &s, 16);
            }
        } else {
            for (int j = 0; j < NR; j++) y[j] = first ? add_lanes(sums[i][j]) : y[j] + add_lanes(sums[i][j]);
        }
    }
}

template <int NR, int DT, bool GROUPED>
static inline void rows_of(int64_t rows, const float* x, const char* w, int64_t far, float* y, int64_t steps, bool first) {
    if (rows == 3) micro<3, NR, DT, GROUPED>(x, w, far, y, steps, first);
    if (rows == 2) micro<2, NR, DT, GROUPED>(x, w, far, y, steps, first);
    if (rows == 1) micro<1, NR, DT, GROUPED>(x, w, far, y, steps, first);
}

// `rows` rows of `length` elements, the last step filled up with zeros, into [steps][group][8]; rows that are not there are zeros.
template <int DT, typename To> static void pack(To* to, const char* from, int64_t stride_bytes, int64_t rows, int64_t group, int64_t length) {
    constexpr bool same = sizeof(To) == (DT == F32 ? 4 : 2);  // halves stay halves, or become float32
    const int64_t size = bytes_of(DT);
    for (int64_t k = 0; k < length; k += 8)
        for (int64_t i = 0; i < group; i++, to += 8) {
            const char* row = from + i * stride_bytes + k * size;
            const int64_t there = i < rows ? std::min<int64_t>(8, length - k) : 0;
            if constexpr (same) {
                if (there < 8) std::memset(to, 0, 8 * size);
                if (there == 8) std::memcpy(to, row, 8 * size);
                else if (there) std::memcpy(to, row, there * size);
            } else {
                if (there == 8) store(to, load_as<DT>(row, 0));
                else for (int64_t j = 0; j < 8; j++) to[j] = j < there ? one_as<DT>(row, j) : 0.f;
            }
        }
}

struct Weights {
    const char* at;
    int64_t N, K, row;  // row: bytes from one to the next; negative: packed
    bool packed() const { return row < 0; }
    int64_t wide() const { return (K + 7) / 8 * 8; }
};

// A thread's own memory, kept from call to call: fresh pages would be much of a small product.
struct Memory {
    std::vector<float> x, w, sums;
    static float* fit(std::vector<float>& v, int64_t n) {
        if (int64_t(v.size()) < n) v.resize(n);
        return v.data();
    }
};
static thread_local Memory memory;

// Columns [n, n_end) of one block of k, for the rows [m, m_end) of the M that x has.
template <int DT, bool GROUPED>
static void columns(const float* x, int64_t wide, int64_t k, const char* w, int64_t far, int64_t count, float* y, int64_t m, int64_t m_end, int64_t M, int64_t steps, bool first) {
    int64_t c = 0;
    const int64_t ahead = m_end < M ? steps * 3 * 32 / count : 0;  // bytes of the next block's rows to fetch for every column
    auto rows = [&](auto width) {
        constexpr int NR = decltype(width)::value;
        const char* at = w + (GROUPED ? c / GROUP_N : c) * far;
        for (int64_t r = m, group; r < m_end; r += group) {
            group = group_of(M - r);
            const char* next = reinterpret_cast<const char*>(x + (r + TILE_M) * wide + k * group) + c * ahead;
            for (int64_t byte = 0; byte < NR * ahead; byte += 64) __builtin_prefetch(next + byte, 0, 2);
            rows_of<NR, DT, GROUPED>(group, x + r * wide + k * group, at, far, y + (r - m) * TILE_N + c, steps, first);
        }
    };
    if (M == 1) for (; c + 8 <= count; c += 8) rows(std::integral_constant<int, 8>());
    for (; c + 4 <= count || (GROUPED && c < count); c += 4) rows(std::integral_constant<int, 4>());
    for (; c < count; c++) rows(std::integral_constant<int, 1>());
}

// Columns [n, n_end) for the rows of x in blocks b to b_end.
template <int DT>
static void tile(const float* x, const Weights& w, int64_t n, int64_t n_end, const char* bias, char* y, const Blocks& blocks, int64_t b, int64_t b_end) {
    const int64_t M = blocks.M, size = bytes_of(DT), wide = w.wide(), whole = w.K / 8 * 8, count = n_end - n;
    const bool copies = M >= PACK_FROM && (DT != F32 || !w.packed());  // else w is read where it is
    float* sums = Memory::fit(memory.sums, (TILE_M + 2) * TILE_N);
    float* copy = Memory::fit(memory.w, TILE_N * (copies ? wide : 8));
    const char* from = w.at + n * (w.packed() ? wide * size : w.row);
    for (int64_t g = 0; g < count && copies; g += GROUP_N) {
        if (w.packed()) pack<DT>(copy + g * wide, from + g * wide * size, 0, 1, 1, GROUP_N * wide);
        else pack<DT>(copy + g * wide, from + g * w.row, w.row, count - g, GROUP_N, w.K);
    }
    for (; b < b_end; b++) {
        const int64_t m = blocks.begin(b), m_end = blocks.begin(b + 1);
        for (int64_t k = 0, length; k < w.K; k += length) {
            length = k == whole ? w.K - whole : std::min(BLOCK_K, whole - k);
            const int64_t steps = (length + 7) / 8;
            const bool first = k == 0;
            if (copies) {
                columns<F32, true>(x, wide, k, reinterpret_cast<char*>(copy + k * GROUP_N), GROUP_N * wide * 4, count, sums, m, m_end, M, steps, first);
            } else if (w.packed()) {
                columns<DT, true>(x, wide, k, from + k * GROUP_N * size, GROUP_N * wide * size, count, sums, m, m_end, M, steps, first);
            } else if (k < whole) {
                columns<DT, false>(x, wide, k, from + k * size, w.row, count, sums, m, m_end, M, steps, first);
            } else {
                for (int64_t j = 0; j < count; j++) pack<DT>(copy + j * 8, from + j * w.row + k * size, 0, 1, 1, length);
                columns<F32, false>(x, wide, k, reinterpret_cast<char*>(copy), 32, count, sums, m, m_end, M, steps, first);
            }
        }
        for (int64_t r = m; r < m_end; r++) {
            float* row = sums + (r - m) * TILE_N;
            char* to = y + (r * w.N + n) * size;
            if (w.K == 0) std::fill(row, row + TILE_N, 0.f);
            int64_t j = 0;
            for (; j + 8 <= count; j += 8) store_as<DT>(to, j, bias ? load(row + j) + load_as<DT>(bias, n + j) : load(row + j));
            for (; j < count; j++) store_one<DT>(to, j, bias ? row[j] + one_as<DT>(bias, n + j) : row[j]);
        }
    }
}

template <int DT>
static void matmul(const char* x, int64_t x_row, const Weights& w, const char* bias, char* y, int64_t M, int64_t threads) {
    const int64_t size = bytes_of(DT), wide = w.wide();
    const int64_t most = std::max<int64_t>(TILE_M, PACKED_X / std::max<int64_t>(wide, 1) / TILE_M * TILE_M);
    for (int64_t from = 0, rows; from < M; from += rows) {
        rows = std::min(most, M - from);
        const int64_t useful = std::min(threads, 1 + rows * w.N * w.K / THREAD_WORK);
        float* packed = Memory::fit(memory.x, rows * wide);
        const Blocks blocks(rows);
        const int64_t width = blocks.count > 4 ? TILE_N : TILE_N / 2, tiles = (w.N + width - 1) / width;
        in_parallel(blocks.count, rows * w.K < THREAD_WORK ? 1 : useful, [&](int64_t b, int64_t b_end) {
            for (int64_t m = blocks.begin(b), group; m < blocks.begin(b_end); m += group) {
                group = group_of(rows - m);
                pack<DT>(packed + m * wide, x + (from + m) * x_row, x_row, group, group, w.K);
            }
        });
        // Columns first: a tile of w is then packed once for many rows. Rows are divided where there are too few columns.
        const int64_t parts = std::max({int64_t(1), std::min(blocks.count, 4 * useful / std::max<int64_t>(tiles, 1)), std::min(blocks.count / 8, useful)});
        std::atomic<int64_t> next(0);
        in_parallel(std::min(useful, tiles * parts), useful, [&](int64_t, int64_t) {
            for (int64_t t; (t = next++) < tiles * parts;) {
                const int64_t n = t / parts * width, part = t % parts;
                tile<DT>(packed, w, n, std::min(w.N, n + width), bias, y + from * w.N * size, blocks, blocks.count * part / parts, blocks.count * (part + 1) / parts);
            }
        });
    }
}

// x[M, K], rows x_row elements apart; w[N, K], rows w_row elements apart, or packed by detcheck_pack (w_row: -1); bias[N] or
// null; y[M, N] dense; all of dtype.
extern "C" void detcheck_matmul(const char* x, int64_t x_row, const char* w, int64_t w_row, int64_t dtype, const char* bias, char* y, int64_t M, int64_t N, int64_t K, int64_t threads) {
    const int64_t size = bytes_of(dtype);
    const Weights weights{w, N, K, w_row * size};
    if (dtype == F32) matmul<F32>(x, x_row * size, weights, bias, y, M, threads);
    if (dtype == BF16) matmul<BF16>(x, x_row * size, weights, bias, y, M, threads);
    if (dtype == F16) matmul<F16>(x, x_row * size, weights, bias, y, M, threads);
}

// w[N, K], rows w_row elements apart, to [N / 4, K / 8, 4, 8] of the same dtype, both rounded up and filled with zeros.
extern "C" void detcheck_pack(const char* w, int64_t w_row, int64_t dtype, char* to, int64_t N, int64_t K, int64_t threads) {
    const int64_t size = bytes_of(dtype), group = GROUP_N * ((K + 7) / 8 * 8) * size;
    in_parallel((N + GROUP_N - 1) / GROUP_N, threads, [&](int64_t g, int64_t g_end) {
        for (; g < g_end; g++) {
            const char* from = w + g * GROUP_N * w_row * size;
            const int64_t rows = N - g * GROUP_N;
            if (dtype == F32) pack<F32>(reinterpret_cast<float*>(to + g * group), from, w_row * size, rows, GROUP_N, K);
            else pack<BF16>(reinterpret_cast<uint16_t*>(to + g * group), from, w_row * size, rows, GROUP_N, K);  // bits moved as they are
        }
    });
}
