// y[m, n] = bias[n] + sum over k of x[m, k] * w[n, k], each output by itself in one order.
//
// The order: k is cut into blocks of BLOCK_K from 0 on. In a block lane j of 8 takes k = j, j + 8, j + 16 ... one after the
// other, product fused into sum; the lanes are added in the tree of add_lanes; block sums are added from left to right, the
// bias last. A tail that does not fill 8 lanes is a block of its own, filled up with zeros. Tiles only group outputs.
#include "_cpu_dot.h"

static constexpr int64_t BLOCK_K = 1024;  // part of the result's definition
static constexpr int64_t TILE_N = 64;      // outputs a thread takes at once: 64 rows of w by BLOCK_K fit in the L2 cache
static constexpr int64_t TILE_M = 48;      // rows of x that each group of w meets while it is in the L1 cache

// One block of k for columns [n, n_end) and all rows.
template <int DT>
static void block(const float* x, int64_t x_stride, const char* w, int64_t w_stride, float* y, int64_t N, int64_t M, int64_t n, int64_t n_end, int64_t length, bool first) {
    if (M == 1) {
        for (; n + 8 <= n_end; n += 8) micro<1, 8, DT>(x, x_stride, w + n * w_stride, w_stride, y + n, N, length, first);
        for (; n < n_end; n++) micro<1, 1, DT>(x, x_stride, w + n * w_stride, w_stride, y + n, N, length, first);
        return;
    }
    for (int64_t m = 0; m < M; m += TILE_M) {
        int64_t rows = std::min(TILE_M, M - m), c = n;
        for (; c + 4 <= n_end; c += 4) rows_of<4, DT>(x + m * x_stride, x_stride, w + c * w_stride, w_stride, y + m * N + c, N, rows, length, first);
        for (; c < n_end; c++) rows_of<1, DT>(x + m * x_stride, x_stride, w + c * w_stride, w_stride, y + m * N + c, N, rows, length, first);
    }
}

// Packed: 3 rows of x, or 4 of w, side by side in steps of 8 elements, so that the inner loop reads two streams and rows a
// power of two apart do not push each other out of the cache. Costs a copy, which pays from PACK_FROM rows on.
static constexpr int64_t GROUP_M = 3, GROUP_N = 4, PACK_FROM = 12;

template <int GROUP, int DT>
static void pack(float* to, const char* from, int64_t stride_bytes, int64_t rows, int64_t length) {
    int64_t whole = length / 8 * 8, size = bytes_of(DT);
    for (int64_t g = 0; g < rows; g += GROUP)
        for (int64_t k = 0; k < length; k += 8)
            for (int64_t i = g; i < g + GROUP; i++, to += 8) {
                if (i >= rows) store(to, splat(0.f));
                else if (k < whole) store(to, load_as<DT>(from + i * stride_bytes + k * size, 0));
                else for (int64_t j = 0; j < 8; j++) to[j] = k + j < length ? one_as<DT>(from + i * stride_bytes, k + j) : 0.f;
            }
}

static inline void micro_packed(const float* x, const float* w, float* y, int64_t y_stride, int64_t rows, int64_t columns, int64_t steps, bool first) {
    v8 sums[GROUP_M][GROUP_N];
    for (int i = 0; i < GROUP_M; i++)
        for (int j = 0; j < GROUP_N; j++) sums[i][j] = splat(0.f);
    for (int64_t k = 0; k < steps; k++, x += 8 * GROUP_M, w += 8 * GROUP_N) {
        v8 a[GROUP_M];
        for (int i = 0; i < GROUP_M; i++) {
            a[i] = load(x + 8 * i);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < GROUP_N; j++) {
            v8 b = load(w + 8 * j);
            IN_REGISTER(b);
            for (int i = 0; i < GROUP_M; i++) sums[i][j] = fma(a[i], b, sums[i][j]);
        }
    }
    for (int i = 0; i < GROUP_M; i++, y += y_stride) {
        v4 s = add_lanes(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        if (i >= rows) continue;
        if (columns == GROUP_N) {
            v4 before;
            std::memcpy(&before, y, 16);
            s = first ? s : before + s;
            std::memcpy(y, &s, 16);
        } else {
            for (int64_t j = 0; j < columns; j++) y[j] = first ? s[j] : y[j] + s[j];
        }
    }
}

// The packed form of one block of k for columns [n, n_end).
static void block_packed(const float* x, const float* w, float* y, int64_t N, int64_t M, int64_t n, int64_t n_end, int64_t length, bool first) {
    int64_t steps = (length + 7) / 8;
    for (int64_t m = 0; m < M; m += TILE_M)
        for (int64_t c = n; c < n_end; c += GROUP_N)
            for (int64_t r = m; r < std::min(M, m + TILE_M); r += GROUP_M)
                micro_packed(x + r * steps * 8, w + (c - n) * steps * 8, y + r * N + c, N, std::min(GROUP_M, M - r), std::min(GROUP_N, n_end - c), steps, first);
}

template <int DT>
static void matmul(const float* x, const char* w, int64_t w_stride, const float* bias, float* y, int64_t M, int64_t N, int64_t K, int64_t threads) {
    int64_t size = bytes_of(DT), whole = K / 8 * 8, tail = K - whole, M_up = (M + GROUP_M - 1) / GROUP_M * GROUP_M;
    // Where the blocks of k begin; a tail of fewer than 8 elements is the last one.
    std::vector<int64_t> cuts;
    for (int64_t k = 0; k < whole; k += BLOCK_K) cuts.push_back(k);
    if (tail) cuts.push_back(whole);
    auto length_of = [&](size_t c) { return cuts[c] == whole ? tail : std::min(BLOCK_K, whole - cuts[c]); };
    bool packed = M >= PACK_FROM;
    std::vector<float> x_packed(packed ? M_up * (K + 8) : 0), x_tail(!packed && tail ? M * 8 : 0, 0.f);
    if (packed)
        in_parallel(cuts.size(), threads, [&](int64_t begin, int64_t end) {
            for (int64_t c = begin; c < end; c++)
                pack<GROUP_M, F32>(&x_packed[M_up * cuts[c]], reinterpret_cast<const char*>(x + cuts[c]), K * 4, M, length_of(c));
        });
    for (int64_t m = 0; m < M && tail && !packed; m++) std::memcpy(&x_tail[m * 8], x + m * K + whole, tail * 4);
    in_parallel((N + TILE_N - 1) / TILE_N, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> w_packed(packed ? TILE_N * BLOCK_K : 0), w_tail(!packed && tail ? TILE_N * 8 : 0, 0.f);
        for (int64_t t = begin; t < end; t++) {
            int64_t n = t * TILE_N, n_end = std::min(N, n + TILE_N);
            for (size_t c = 0; c < cuts.size(); c++) {
                int64_t k = cuts[c], length = length_of(c);
                const char* columns = w + k * size;
                if (packed) {
                    pack<GROUP_N, DT>(w_packed.data(), columns + n * w_stride * size, w_stride * size, n_end - n, length);
                    block_packed(&x_packed[M_up * k], w_packed.data(), y, N, M, n, n_end, length, c == 0);
                } else if (k < whole) {
                    block<DT>(x + k, K, columns, w_stride * size, y, N, M, n, n_end, length, c == 0);
                } else {
                    for (int64_t j = n; j < n_end; j++)
                        for (int64_t i = 0; i < tail; i++) w_tail[(j - n) * 8 + i] = one_as<DT>(columns + j * w_stride * size, i);
                    block<F32>(x_tail.data(), 8, reinterpret_cast<const char*>(w_tail.data()) - n * 32, 32, y, N, M, n, n_end, 8, c == 0);
                }
            }
            for (int64_t m = 0; m < M; m++) {
                if (K == 0) std::fill(y + m * N + n, y + m * N + n_end, 0.f);
                if (bias) for (int64_t j = n; j < n_end; j++) y[m * N + j] += bias[j];
            }
        }
    });
}

// x[M, K] float32, dense; w[N, K] of dtype, rows w_stride elements apart; bias[N] float32 or null; y[M, N] float32, dense.
extern "C" void detcheck_matmul(const float* x, const char* w, int64_t w_stride, int64_t dtype, const float* bias, float* y, int64_t M, int64_t N, int64_t K, int64_t threads) {
    if (dtype == F32) matmul<F32>(x, w, w_stride, bias, y, M, N, K, threads);
    if (dtype == BF16) matmul<BF16>(x, w, w_stride, bias, y, M, N, K, threads);
    if (dtype == F16) matmul<F16>(x, w, w_stride, bias, y, M, N, K, threads);
}
