// y[m, n] = bias[n] + sum over k of x[m, k] * w[n, k], each output by itself in one order.
//
// The order: k is cut into blocks from 0 on, each summed as micro.h says; block sums are added from left to right, the bias
// last. A tail that does not fill a step of the lanes is a block of its own, filled up with zeros. Tiles, packing and threads only
// group outputs: every one of them is computed in the same steps.
//
// bfloat16 has another order on processors with AMX, see tiles.h.
//
// Packed: rows side by side in steps, [k / step][rows][step], so that the inner loop reads two streams and rows a power of two
// apart do not push each other out of the cache. x is packed always; w where there are rows enough to pay for it. A w that the caller
// packed once and for all (detcheck_pack) has another kernel with the same bits, see panels.h.
#include "panels.h"
#if defined(DETCHECK_TILES) || defined(TILES_EMULATED)
#define TILES 1
#include "tiles.h"
#endif
#include "check.h"

static int64_t step_of(int64_t dtype) { return dtype == BF16 ? Order<BF16>::STEP : Order<F32>::STEP; }

static constexpr int64_t TILE_N = 128;              // outputs that a thread takes at once, at most: as many rows of w by a block
static constexpr int64_t TILE_M = 48;               // rows of x, in the L2 cache, that each group of w meets while it is in the L1 cache
static constexpr int64_t PACK_FROM = 12;            // rows of x that pay for packing w in the call
static constexpr int64_t PACKED_X = int64_t(1) << 21;  // elements of x packed at a time: 8 MiB, kept from call to call
static constexpr int64_t THREAD_WORK = int64_t(1) << 17;  // products that pay for waking a thread

// Rows of x that go through w together: threes keep 12 sums in flight, and 2 + 2 beats 3 + 1.
static inline int64_t group_of(int64_t left) { return left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3; }

// The M rows of x in blocks of TILE_M, cut between groups: a last block would not be of one or two rows.
struct Blocks {
    int64_t M, count;
    explicit Blocks(int64_t M) : M(M), count(std::max<int64_t>(1, M / TILE_M + (M % TILE_M >= 3))) {}
    int64_t begin(int64_t b) const { return b == count ? M : b * TILE_M; }
};

// `rows` rows of x, packed, by NR columns.
template <int NR, int DT, bool GROUPED>
static inline void rows_of(int64_t rows, const char* x, const char* w, int64_t far, float* y, int64_t steps, bool first) {
    constexpr int64_t w_step = (GROUPED ? GROUP_N : 1) * Order<DT>::bytes;
    if (rows == 3) dots<3, NR, DT, GROUPED>(x, 32, 96, w, far, w_step, y, TILE_N, steps, first);
    if (rows == 2) dots<2, NR, DT, GROUPED>(x, 32, 64, w, far, w_step, y, TILE_N, steps, first);
    if (rows == 1) dots<1, NR, DT, GROUPED>(x, 32, 32, w, far, w_step, y, TILE_N, steps, first);
}

// `rows` rows of `length` elements, the last step filled up with zeros, into [steps][group][STEP]; rows that are not there are zeros.
template <int DT, typename To> static void pack(To* to, const char* from, int64_t stride_bytes, int64_t rows, int64_t group, int64_t length) {
    constexpr bool same = sizeof(To) == (DT == F32 ? 4 : 2);  // halves stay halves, or become float32
    constexpr int64_t step = Order<DT>::STEP;
    const int64_t size = bytes_of(DT);
    for (int64_t k = 0; k < length; k += step)
        for (int64_t i = 0; i < group; i++, to += step) {
            const char* row = from + i * stride_bytes + k * size;
            const int64_t there = i < rows ? std::min<int64_t>(step, length - k) : 0;
            if constexpr (same) {
                if (there < step) std::memset(to, 0, step * size);
                if (there == step) std::memcpy(to, row, step * size);
                else if (there) std::memcpy(to, row, there * size);
            } else {
                if (there == step) store(to, load_as<DT>(row, 0));
                else for (int64_t j = 0; j < step; j++) to[j] = j < there ? one_as<DT>(row, j) : 0.f;
            }
        }
}

struct Weights {
    const char* at;
    int64_t N, K, row, step;  // row: bytes from one to the next; negative: packed in panels. step: elements
    int64_t whole() const { return K / step * step; }
    int64_t wide() const { return (K + step - 1) / step * step; }
};

// A thread's own memory, kept from call to call: fresh pages would be much of a small product.
struct Memory {
    std::vector<float> x, w, sums;
    template <typename T = float> static T* fit(std::vector<float>& v, int64_t n) {
        const int64_t floats = (n * int64_t(sizeof(T)) + 3) / 4;
        if (int64_t(v.size()) < floats) v.resize(floats);
        return reinterpret_cast<T*>(v.data());
    }
};
static thread_local Memory memory;

// `count` columns of one block of k, for the rows [m, m_end) of the M that x has.
template <int DT, bool GROUPED, typename X>
static void columns(const X* x, int64_t wide, int64_t k, const char* w, int64_t far, int64_t count, float* y, int64_t m, int64_t m_end, int64_t M, int64_t steps, bool first) {
    constexpr int MOST = GROUPED ? WIDE : WIDE_ROWS;
    int64_t c = 0;
    const int64_t ahead = m_end < M ? steps * 3 * 32 / count : 0;  // bytes of the next block's rows to fetch for every column
    auto rows = [&](auto width) {
        constexpr int NR = decltype(width)::value;
        const char* at = w + (GROUPED ? c / GROUP_N : c) * far;
        for (int64_t r = m, group; r < m_end; r += group) {
            group = group_of(M - r);
            const char* next = reinterpret_cast<const char*>(x + (r + TILE_M) * wide + k * group) + c * ahead;
            for (int64_t byte = 0; byte < NR * ahead; byte += 64) __builtin_prefetch(next + byte, 0, 2);
            rows_of<NR, DT, GROUPED>(group, reinterpret_cast<const char*>(x + r * wide + k * group), at, far, y + (r - m) * TILE_N + c, steps, first);
        }
    };
    if constexpr (MOST > 4) for (; c + MOST <= count; c += MOST) rows(std::integral_constant<int, MOST>());
    else if (M == 1) for (; c + 8 <= count; c += 8) rows(std::integral_constant<int, 8>());
    for (; c + 4 <= count || (GROUPED && c < count); c += 4) rows(std::integral_constant<int, 4>());
    for (; c < count; c++) rows(std::integral_constant<int, 1>());
}

// Columns [n, n_end) for the rows of x in blocks b to b_end.
template <int DT>
static __attribute__((noinline)) void tile(const typename Order<DT>::X* x, const Weights& w, int64_t n, int64_t n_end, const char* bias, char* y, const Blocks& blocks, int64_t b, int64_t b_end) {
    constexpr int COPIED = DT == BF16 ? int(BF16) : int(F32);  // float16 is converted once rather than at each use
    typedef typename Order<DT>::X X;
    const int64_t M = blocks.M, size = bytes_of(DT), wide = w.wide(), whole = w.whole(), count = n_end - n;
    const bool copies = M >= PACK_FROM;  // else w is read where it is
    float* sums = Memory::fit(memory.sums, (TILE_M + 2) * TILE_N);
    X* copy = Memory::fit<X>(memory.w, TILE_N * (copies ? wide : w.step));
    const char* from = w.at + n * w.row;
    for (int64_t g = 0; g < count && copies; g += GROUP_N) pack<DT>(copy + g * wide, from + g * w.row, w.row, count - g, GROUP_N, w.K);
    for (; b < b_end; b++) {
        const int64_t m = blocks.begin(b), m_end = blocks.begin(b + 1);
        for (int64_t k = 0, length; k < w.K; k += length) {
            length = k == whole ? w.K - whole : std::min(Order<DT>::BLOCK_K, whole - k);
            const int64_t steps = (length + w.step - 1) / w.step;
            const bool first = k == 0;
            if (copies) {
                columns<COPIED, true>(x, wide, k, reinterpret_cast<char*>(copy + k * GROUP_N), GROUP_N * wide * sizeof(X), count, sums, m, m_end, M, steps, first);
            } else if (k < whole) {
                columns<DT, false>(x, wide, k, from + k * size, w.row, count, sums, m, m_end, M, steps, first);
            } else {
                for (int64_t j = 0; j < count; j++) pack<DT>(copy + j * w.step, from + j * w.row + k * size, 0, 1, 1, length);
                columns<COPIED, false>(x, wide, k, reinterpret_cast<char*>(copy), w.step * sizeof(X), count, sums, m, m_end, M, steps, first);
            }
        }
        for (int64_t r = m; r < m_end; r++) {
            float* row = sums + (r - m) * TILE_N;
            char* to = y + (r * w.N + n) * size;
            if (w.K == 0) std::fill(row, row + TILE_N, 0.f);
            write_row<DT>(to, row, bias, n, count);
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
        auto* packed = Memory::fit<typename Order<DT>::X>(memory.x, (rows + TILE_ROWS * 8) * wide);
        if (w.row < 0) {
            matmul_in_panels<DT>(x + from * x_row, x_row, w.at, w.N, w.K, bias, y + from * w.N * size, reinterpret_cast<char*>(packed), rows, useful);
            continue;
        }
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
            Subnormals<DT> as_the_order_has_them;
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
    const Weights weights{w, N, K, w_row * size, step_of(dtype)};
    if (dtype == F32) matmul<F32>(x, x_row * size, weights, bias, y, M, threads);
#ifdef TILES
    if (dtype == BF16) matmul_in_tiles(x, x_row * size, {w, N, K, w_row * size}, bias, y, M, threads);
#else
    if (dtype == BF16) matmul<BF16>(x, x_row * size, weights, bias, y, M, threads);
#endif
    if (dtype == F16) matmul<F16>(x, x_row * size, weights, bias, y, M, threads);
}

// Rows of w that are packed side by side, and elements of a step.
extern "C" void detcheck_layout(int64_t dtype, int64_t* group, int64_t* step) {
    *group = PANEL, *step = step_of(dtype);
#ifdef TILES
    if (dtype == BF16) *group = SIDE, *step = DEPTH;
#endif
}

// w[N, K], rows w_row elements apart, to panels of `group` rows (panels.h, tiles.h), N and K rounded up and filled with zeros.
extern "C" void detcheck_pack(const char* w, int64_t w_row, int64_t dtype, char* to, int64_t N, int64_t K, int64_t threads) {
    int64_t group, step;
    detcheck_layout(dtype, &group, &step);
    const int64_t size = bytes_of(dtype), panel = group * ((K + step - 1) / step * step) * size;
    in_parallel((N + group - 1) / group, threads, [&](int64_t g, int64_t g_end) {
        for (; g < g_end; g++) {
            const char* from = w + g * group * w_row * size;
            const int64_t rows = N - g * group;
            if (dtype == F32) pack_panel<F32>(to + g * panel, from, w_row * size, std::min(rows, group), K);
#ifdef TILES
            if (dtype == BF16) pack_rows(to + g * panel, from, w_row * size, rows, K);
#else
            if (dtype == BF16) pack_panel<BF16>(to + g * panel, from, w_row * size, std::min(rows, group), K);
#endif
            if (dtype == F16) pack_panel<F16>(to + g * panel, from, w_row * size, std::min(rows, group), K);
        }
    });
}
