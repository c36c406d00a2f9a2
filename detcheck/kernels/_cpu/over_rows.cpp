// Sums over rows, as the gradients of what rows share are: of a weight, a bias, a norm's factors, an embedding's table.
//
// Each number is a sum by itself that takes the rows from first to last, and a row of zeros changes nothing. So a sample's own part has the same
// bits wherever its rows lie, whatever rows of zeros lie around them. Tiles, blocks of rows and threads only group: a block goes on where the
// one before it ended. 0.0 is added at the end, as a row of zeros would.
#include "common.h"

enum { F64 = 3 };  // beside common.h's

static constexpr int64_t LANES = sizeof(vmax) / 4, WIDE = 2 * LANES, TALL = LANES == 16 ? 12 : 6;  // of a tile in registers
static constexpr int64_t ROWS = 64, P_TILE = 96, Q_TILE = 256;                  // what a thread keeps near: rows at once, and a tile of the result

// sums[TALL][Q_TILE], of which WIDE columns are taken, go on over `rows` rows of a[rows][TALL] and g[rows][Q_TILE].
static inline void add_products(float* sums, const float* a, const float* g, int64_t rows) {
    vmax s[TALL][2];
    for (int p = 0; p < TALL; p++)
        for (int q = 0; q < 2; q++) s[p][q] = get<vmax>(sums + p * Q_TILE + q * LANES);
    for (int64_t m = 0; m < rows; m++) {
        const vmax x = get<vmax>(g + m * Q_TILE), y = get<vmax>(g + m * Q_TILE + LANES);
        for (int p = 0; p < TALL; p++) {
            const vmax w = a[m * TALL + p] - vmax{};
            s[p][0] = fma(w, x, s[p][0]), s[p][1] = fma(w, y, s[p][1]);
        }
    }
    for (int p = 0; p < TALL; p++)
        for (int q = 0; q < 2; q++) put(sums + p * Q_TILE + q * LANES, s[p][q]);
}

template <int DT> static void products(char* out, const char* a, int64_t a_stride, const char* g, int64_t g_stride, int64_t M, int64_t P, int64_t Q, int64_t threads) {
    const int64_t across = (Q + Q_TILE - 1) / Q_TILE, tiles = across * ((P + P_TILE - 1) / P_TILE), size = bytes_of(DT);
    in_parallel(tiles, std::min(threads, 1 + M * P * Q / (int64_t(1) << 16)), [&](int64_t begin, int64_t end) {
        std::vector<float> sums(P_TILE * Q_TILE), near_a(ROWS * P_TILE), near_g(ROWS * Q_TILE);
        for (int64_t tile = begin; tile < end; tile++) {
            const int64_t p0 = tile / across * P_TILE, q0 = tile % across * Q_TILE, tall = std::min(P_TILE, P - p0), wide = std::min(Q_TILE, Q - q0);
            std::fill(sums.begin(), sums.end(), 0.f), std::fill(near_a.begin(), near_a.end(), 0.f), std::fill(near_g.begin(), near_g.end(), 0.f);
            for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
                const int64_t rows = std::min(ROWS, M - m0);
                for (int64_t m = 0; m < rows; m++) {
                    const char *row_a = a + (m0 + m) * a_stride * size, *row_g = g + (m0 + m) * g_stride * size;
                    for (int64_t p = 0; p < tall; p++) near_a[(p / TALL * ROWS + m) * TALL + p % TALL] = one_as<DT>(row_a, p0 + p);
                    int64_t q = 0;
                    for (; q + 8 <= wide; q += 8) store(&near_g[m * Q_TILE + q], load_as<DT>(row_g, q0 + q));
                    for (; q < wide; q++) near_g[m * Q_TILE + q] = one_as<DT>(row_g, q0 + q);
                }
                for (int64_t p = 0; p < tall; p += TALL)
                    for (int64_t q = 0; q < wide; q += WIDE) add_products(&sums[p * Q_TILE + q], &near_a[p * ROWS], &near_g[q], rows);
            }
            for (int64_t p = 0; p < tall; p++)
                for (int64_t q = 0; q < wide; q++) store_one<DT>(out, (p0 + p) * Q + q0 + q, sums[p * Q_TILE + q] + 0.f);
        }
    });
}

static void products64(double* out, const double* a, int64_t a_stride, const double* g, int64_t g_stride, int64_t M, int64_t P, int64_t Q, int64_t threads) {
    in_parallel(P, threads, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; p++) {
            double* sums = out + p * Q;
            std::fill(sums, sums + Q, 0.0);
            for (int64_t m = 0; m < M; m++)
                for (int64_t q = 0; q < Q; q++) sums[q] = std::fma(a[m * a_stride + p], g[m * g_stride + q], sums[q]);
            for (int64_t q = 0; q < Q; q++) sums[q] += 0.0;
        }
    });
}

// out[P, Q], dense = the sum over m of a[m, p] * g[m, q], product fused into sum, in float32; of float64 in float64. Rows a_stride and g_stride elements apart.
extern "C" void detcheck_products_over_rows(int64_t dtype, char* out, const char* a, int64_t a_stride, const char* g, int64_t g_stride, int64_t M, int64_t P, int64_t Q, int64_t threads) {
    if (dtype == F32) products<F32>(out, a, a_stride, g, g_stride, M, P, Q, threads);
    if (dtype == BF16) products<BF16>(out, a, a_stride, g, g_stride, M, P, Q, threads);
    if (dtype == F16) products<F16>(out, a, a_stride, g, g_stride, M, P, Q, threads);
    if (dtype == F64) products64((double*)out, (const double*)a, a_stride, (const double*)g, g_stride, M, P, Q, threads);
}

static constexpr int64_t COLUMNS = 256;  // that are summed at once

template <typename Get, typename Put> static void sums(int64_t M, int64_t n, int64_t threads, const Get& get_one, const Put& put_one) {
    const int64_t parts = (n + COLUMNS - 1) / COLUMNS;
    in_parallel(parts, std::min(threads, 1 + M * n / (int64_t(1) << 14)), [&](int64_t begin, int64_t end) {
        double sum[COLUMNS];
        for (int64_t part = begin; part < end; part++) {
            const int64_t first = part * COLUMNS, wide = std::min(COLUMNS, n - first);
            std::fill(sum, sum + COLUMNS, 0.0);
            for (int64_t m = 0; m < M; m++)
                for (int64_t i = 0; i < wide; i++) sum[i] += get_one(m, first + i);
            for (int64_t i = 0; i < wide; i++) put_one(first + i, sum[i] + 0.0);
        }
    });
}

template <int DT> static void narrow_sums(char* out, const char* x, int64_t x_stride, int64_t M, int64_t n, int64_t threads) {
    sums(M, n, threads, [&](int64_t m, int64_t i) { return double(one_as<DT>(x, m * x_stride + i)); }, [&](int64_t i, double s) { store_one<DT>(out, i, float(s)); });
}

// out[n] = the sum over m of x[m, n], in float64.
extern "C" void detcheck_sums_over_rows(int64_t dtype, char* out, const char* x, int64_t x_stride, int64_t M, int64_t n, int64_t threads) {
    if (dtype == F32) narrow_sums<F32>(out, x, x_stride, M, n, threads);
    if (dtype == BF16) narrow_sums<BF16>(out, x, x_stride, M, n, threads);
    if (dtype == F16) narrow_sums<F16>(out, x, x_stride, M, n, threads);
    if (dtype == F64) sums(M, n, threads, [&](int64_t m, int64_t i) { return ((const double*)x)[m * x_stride + i]; }, [&](int64_t i, double s) { ((double*)out)[i] = s; });
}

template <int DT> static void placed(float* table, const char* x, const int64_t* places, int64_t M, int64_t n, int64_t V, int64_t left_out, int64_t threads) {
    in_parallel(n, std::min(threads, 1 + M * n / (int64_t(1) << 14)), [&](int64_t begin, int64_t end) {
        for (int64_t m = 0; m < M; m++) {
            if (places[m] == left_out) continue;
            for (int64_t i = begin; i < end; i++) table[places[m] * n + i] += one_as<DT>(x, m * n + i);
        }
    });
}

// table[V, n] of zeros, float32: row m of x[M, n], dense, is added to row places[m], but where that is left_out. Places are within the table.
extern "C" void detcheck_placed_over_rows(int64_t dtype, float* table, const char* x, const int64_t* places, int64_t M, int64_t n, int64_t V, int64_t left_out, int64_t threads) {
    if (dtype == F32) placed<F32>(table, x, places, M, n, V, left_out, threads);
    if (dtype == BF16) placed<BF16>(table, x, places, M, n, V, left_out, threads);
    if (dtype == F16) placed<F16>(table, x, places, M, n, V, left_out, threads);
}
