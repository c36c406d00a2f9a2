// Triangular systems, each by itself and each column of its right side by itself: unknowns in the order in which they follow from each
// other, and in each the products with those before in the same order. In float64, rounded once.
#include "common.h"

static constexpr int64_t THREAD_WORK = int64_t(1) << 14;  // products that pay for waking a thread

template <int DT> static void systems(char* out, const char* a, const char* b, int64_t M, int64_t n, int64_t m, int64_t upper, int64_t unit, int64_t threads) {
    const int64_t size = bytes_of(DT);
    in_parallel(M, std::min(threads, 1 + M * n * n * m / THREAD_WORK), [&](int64_t begin, int64_t end) {
        std::vector<double> solved(n * m);
        for (int64_t s = begin; s < end; s++) {
            const char *matrix = a + s * n * n * size, *right = b + s * n * m * size;
            for (int64_t step = 0; step < n; step++) {
                const int64_t i = upper ? n - 1 - step : step;
                double* x = &solved[i * m];
                for (int64_t c = 0; c < m; c++) x[c] = one_as<DT>(right, i * m + c);
                for (int64_t before = 0; before < step; before++) {
                    const int64_t j = upper ? n - 1 - before : before;
                    const double factor = one_as<DT>(matrix, i * n + j), *y = &solved[j * m];
                    for (int64_t c = 0; c < m; c++) x[c] -= factor * y[c];
                }
                const double last = unit ? 1.0 : one_as<DT>(matrix, i * n + i);
                for (int64_t c = 0; c < m; c++) x[c] /= last;
            }
            for (int64_t i = 0; i < n * m; i++) store_one<DT>(out, s * n * m + i, float(solved[i]));
        }
    });
}

// a[M, n, n], b and out [M, n, m], dense. upper: the last unknown is solved first; unit: the diagonal is not read, and is ones.
extern "C" void detcheck_solve(int64_t dtype, char* out, const char* a, const char* b, int64_t M, int64_t n, int64_t m, int64_t upper, int64_t unit, int64_t threads) {
    if (dtype == F32) systems<F32>(out, a, b, M, n, m, upper, unit, threads);
    if (dtype == BF16) systems<BF16>(out, a, b, M, n, m, upper, unit, threads);
    if (dtype == F16) systems<F16>(out, a, b, M, n, m, upper, unit, threads);
}
