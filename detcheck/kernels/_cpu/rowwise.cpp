// Ops on rows by themselves: a row's result depends on the row and on its length, never on how many rows there are.
//
// The order of a sum, which is in float64: 2 accumulators of 8 lanes take 16 columns a step, in order; they are added, then the
// lanes from first to last, then the columns that do not fill 16, one by one. Elementwise ops fill a tail up to 8 lanes, so
// that an element's bits do not depend on its place or on the width of the row.
#include "common.h"

typedef double d8 __attribute__((vector_size(64)));

// Sum over the row of f(8 columns as float32).
template <int DT, typename F> static inline double row_sum(const char* row, int64_t n, const F& f) {
    d8 a = {0, 0, 0, 0, 0, 0, 0, 0}, b = a;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        a += __builtin_convertvector(f(load_as<DT>(row, i)), d8);
        b += __builtin_convertvector(f(load_as<DT>(row, i + 8)), d8);
    }
    a += b;
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += a[j];
    for (; i < n; i++) sum += f(splat(one_as<DT>(row, i)))[0];
    return sum;
}

// The largest element; NaN if there is one.
template <int DT> static inline float row_max(const char* row, int64_t n) {
    v8 most = splat(-std::numeric_limits<float>::infinity()), bad = splat(0.f);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        v8 x = load_as<DT>(row, i);
        most = x > most ? x : most;
        bad = x == x ? bad : x;
    }
    float top = most[0], nan = 0.f;
    for (int j = 0; j < 8; j++) top = most[j] > top ? most[j] : top, nan = bad[j] == bad[j] ? nan : bad[j];
    for (; i < n; i++) {
        float x = one_as<DT>(row, i);
        top = x > top ? x : top, nan = x == x ? nan : x;
    }
    return nan == nan ? top : nan;
}

// out = f(in...) for every element, in 8 lanes also at the tail.
template <int DT, typename F> static inline void each(char* out, const char* a, const char* b, int64_t n, const F& f) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) store_as<DT>(out, i, f(load_as<DT>(a, i), b ? load_as<DT>(b, i) : splat(0.f)));
    if (i == n) return;
    v8 x = splat(0.f), y = x;
    for (int64_t j = 0; j < n - i; j++) {
        x[j] = one_as<DT>(a, i + j);
        if (b) y[j] = one_as<DT>(b, i + j);
    }
    v8 r = f(x, y);
    for (int64_t j = 0; j < n - i; j++) store_one<DT>(out, i + j, r[j]);
}

enum What : int64_t { SOFTMAX = 0, LOG_SOFTMAX = 1, MEAN = 2, RMSNORM = 3, SILU = 4, GELU = 5, GELU_TANH = 6, SILU_MUL = 7, GELU_MUL = 8, GELU_TANH_MUL = 9 };

static inline v8 silu(v8 x) { return x / (splat(1.f) + exp(-x)); }

static inline v8 gelu(v8 x) {  // with the error function, each element in float64
    v8 r;
    for (int j = 0; j < 8; j++) r[j] = float(0.5 * double(x[j]) * (1.0 + std::erf(double(x[j]) * 0.70710678118654752440)));
    return r;
}

static inline v8 gelu_tanh(v8 x) {
    v8 r;
    for (int j = 0; j < 8; j++) {
        double d = x[j];
        r[j] = float(0.5 * d * (1.0 + std::tanh(0.79788456080286535588 * (d + 0.044715 * d * d * d))));
    }
    return r;
}

// To the dtype and back, as torch rounds between two ops.
template <int DT> static inline v8 rounded(v8 x) {
    char narrow[32];
    store_as<DT>(narrow, 0, x);
    return load_as<DT>(narrow, 0);
}

template <int DT> static void row(int64_t what, char* out, const char* a, const char* b, int64_t n, double eps) {
    auto same = [](v8 x) { return x; };
    switch (what) {
        case SOFTMAX: {
            v8 most = splat(row_max<DT>(a, n));
            v8 total = splat(float(row_sum<DT>(a, n, [&](v8 x) { return exp(x - most); })));
            each<DT>(out, a, nullptr, n, [&](v8 x, v8) { return exp(x - most) / total; });
            break;
        }
        case LOG_SOFTMAX: {
            v8 most = splat(row_max<DT>(a, n));
            v8 log_sum = splat(float(std::log(row_sum<DT>(a, n, [&](v8 x) { return exp(x - most); }))));
            each<DT>(out, a, nullptr, n, [&](v8 x, v8) { return (x - most) - log_sum; });
            break;
        }
        case MEAN: store_one<DT>(out, 0, float(row_sum<DT>(a, n, same) / double(n))); break;
        case RMSNORM: {
            double squares = row_sum<DT>(a, n, [](v8 x) { return x * x; });
            v8 scale = splat(float(1.0 / std::sqrt(squares / double(n) + eps)));
            each<DT>(out, a, b, n, [&](v8 x, v8 w) { return b ? (x * scale) * w : x * scale; });
            break;
        }
        case SILU: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return silu(x); }); break;
        case GELU: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return gelu(x); }); break;
        case GELU_TANH: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return gelu_tanh(x); }); break;
        case SILU_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(silu(x)) * y; }); break;
        case GELU_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(gelu(x)) * y; }); break;
        case GELU_TANH_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(gelu_tanh(x)) * y; }); break;
    }
}

static constexpr int64_t THREAD_WORK = int64_t(1) << 14;  // elements that pay for waking a thread: a norm of a few rows is done before it is up
static constexpr int64_t SLOW = 16;                       // plain elements that one with erf or tanh takes as long as

template <int DT> static void rows(int64_t what, char* out, int64_t out_width, const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t M, int64_t n, double eps, int64_t threads) {
    const int64_t size = bytes_of(DT), cost = what == GELU || what == GELU_TANH || what == GELU_MUL || what == GELU_TANH_MUL ? SLOW : 1;
    in_parallel(M, std::min(threads, 1 + M * n * cost / THREAD_WORK), [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; m++)
            row<DT>(what, out + m * out_width * size, a + m * a_stride * size, b ? b + m * b_stride * size : nullptr, n, eps);
    });
}

// a[M, n] of rows a_stride elements apart, out[M, out_width] dense, of dtype; b: a second operand [M, n] of rows b_stride apart, or
// with a stride of 0 a weight [n] for all rows, or null.
extern "C" void detcheck_rowwise(int64_t what, int64_t dtype, char* out, int64_t out_width, const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t M, int64_t n, double eps, int64_t threads) {
    if (dtype == F32) rows<F32>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
    if (dtype == BF16) rows<BF16>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
    if (dtype == F16) rows<F16>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
}
