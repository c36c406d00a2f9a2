// Ops on rows by themselves: a row's result depends on the row and on its length, never on how many rows there are.
//
// The order of a sum, which is in float64: 2 accumulators of 8 lanes take 16 columns a step, in order; they are added, then the
// lanes from first to last, then the columns that do not fill 16, one by one. Elementwise ops fill a tail up to 8 lanes, so
// that an element's bits do not depend on its place or on the width of the row.
//
// Softmaxes add exponentials in 16 lanes, the tail among them, counted from the first that is not zero: what a mask hides, before a row's own
// numbers or behind them, is zero and changes nothing.
//
// A log-softmax is each element less the logarithm of the sum (LOGSUMEXP), which is rounded to float32 first: so those who take the
// log-softmax of all elements and those who take one element less the logsumexp have the same bits.
//
// An RMS norm is rounded where models that write it out round: the mean of the squares, that and eps, the reciprocal of its root, the row
// times that (to the dtype), and this times the weight. So both have the same bits.
//
// A plain sum (SUM) has its tail in the same lanes as the rest, so that zeros behind a row, as padding brings them, change nothing.
// Gradients of softmaxes take the sum of the products with the gradient in the same way, from the first weight that is not zero.
// A running sum (CUMSUM) is one accumulator from first to last. Norms add twice in the order of other ops: the numbers, then the squares of
// what the mean leaves of them.
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

// Sum over the row of what is left of it after `mean`, squared.
template <int DT> static inline double row_squares(const char* row, int64_t n, double mean) {
    d8 a = {0, 0, 0, 0, 0, 0, 0, 0}, b = a;
    auto left = [mean](v8 x) { return __builtin_convertvector(x, d8) - mean; };
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        d8 x = left(load_as<DT>(row, i)), y = left(load_as<DT>(row, i + 8));
        a += x * x;
        b += y * y;
    }
    a += b;
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += a[j];
    for (; i < n; i++) {
        double x = double(one_as<DT>(row, i)) - mean;
        sum += x * x;
    }
    return sum;
}

// Sum over the row: 16 lanes by place, the tail too; lanes j and j + 8, then from first to last.
template <int DT> static inline double lane_sum(const char* row, int64_t n) {
    d8 a = {0, 0, 0, 0, 0, 0, 0, 0}, b = a;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        a += __builtin_convertvector(load_as<DT>(row, i), d8);
        b += __builtin_convertvector(load_as<DT>(row, i + 8), d8);
    }
    for (int64_t j = 0; i + j < n; j++) (j < 8 ? a[j] : b[j - 8]) += double(one_as<DT>(row, i + j));
    a += b;
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += a[j];
    return sum;
}

// Sum over the row of exp(x - most).
template <int DT> static inline double exponentials(const char* row, int64_t n, float most) {
    const v8 top = splat(most);
    auto wide = [&](int64_t i) { return __builtin_convertvector(exp(load_as<DT>(row, i) - top), d8); };
    d8 a = {0, 0, 0, 0, 0, 0, 0, 0}, b = a;
    int64_t i = 0;
    while (i < n && exp(splat(one_as<DT>(row, i)) - top)[0] == 0.f) i++;
    for (; i + 16 <= n; i += 16) {
        a += wide(i);
        b += wide(i + 8);
    }
    for (int64_t j = 0; i + j < n; j++) (j < 8 ? a[j] : b[j - 8]) += double(exp(splat(one_as<DT>(row, i + j)) - top)[0]);
    a += b;
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += a[j];
    return sum;
}

// Sum over the row of a * b, of the first b that is not zero on: 16 lanes by place from there.
template <int DT> static inline double weighted(const char* a, const char* b, int64_t n) {
    auto wide = [&](int64_t i) { return __builtin_convertvector(load_as<DT>(a, i), d8) * __builtin_convertvector(load_as<DT>(b, i), d8); };
    d8 s = {0, 0, 0, 0, 0, 0, 0, 0}, t = s;
    int64_t i = 0;
    while (i < n && one_as<DT>(b, i) == 0.f) i++;
    for (; i + 16 <= n; i += 16) {
        s += wide(i);
        t += wide(i + 8);
    }
    for (int64_t j = 0; i + j < n; j++) (j < 8 ? s[j] : t[j - 8]) += double(one_as<DT>(a, i + j)) * double(one_as<DT>(b, i + j));
    s += t;
    double sum = 0;
    for (int j = 0; j < 8; j++) sum += s[j];
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

// The logarithm of the sum over the row of exp(x), rounded to float32 as one number: what is taken off each element in a log-softmax too.
template <int DT> static inline float log_sum(const char* row, int64_t n) {
    const float most = row_max<DT>(row, n), from = std::isinf(most) ? 0.f : most;
    return float(double(from) + std::log(exponentials<DT>(row, n, from)));
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

enum What : int64_t { SOFTMAX = 0, LOG_SOFTMAX = 1, MEAN = 2, RMSNORM = 3, SILU = 4, GELU = 5, GELU_TANH = 6, SILU_MUL = 7, GELU_MUL = 8, GELU_TANH_MUL = 9, SUM = 10, CUMSUM = 11, SIGMOID = 12, SOFTPLUS = 13, SOFTMAX_GRAD = 14, LOG_SOFTMAX_GRAD = 15, SIGMOID_GRAD = 16, TANH_GRAD = 17, SILU_GRAD = 18, GELU_GRAD = 19, GELU_TANH_GRAD = 20, LOGSUMEXP = 21 };

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

static inline v8 gelu_slope(v8 x) {
    v8 r;
    for (int j = 0; j < 8; j++) {
        const double d = x[j];
        r[j] = float(0.5 * (1.0 + std::erf(d * 0.70710678118654752440)) + d * 0.39894228040143267794 * std::exp(-0.5 * d * d));
    }
    return r;
}

static inline v8 gelu_tanh_slope(v8 x) {
    v8 r;
    for (int j = 0; j < 8; j++) {
        const double d = x[j], t = std::tanh(0.79788456080286535588 * (d + 0.044715 * d * d * d));
        r[j] = float(0.5 * (1.0 + t) + 0.5 * d * (1.0 - t * t) * 0.79788456080286535588 * (1.0 + 3 * 0.044715 * d * d));
    }
    return r;
}

static inline v8 sigmoid(v8 x) { return splat(1.f) / (splat(1.f) + exp(-x)); }

// max(x, 0) + log(1 + e) with e = exp(-|x|): log(1 + e) = 2 atanh(s), s = e / (2 + e) <= 1/3, whose series has a term of 1/17 s**17 at last.
static inline v8 softplus(v8 x, float threshold) {
    const v8 zero = splat(0.f), e = exp(x < zero ? x : -x), s = e / (splat(2.f) + e), s2 = s * s;
    v8 p = splat(1.f / 17);
    for (int k = 15; k > 0; k -= 2) p = fma(p, s2, splat(1.f / float(k)));
    const v8 y = (x > zero ? x : zero) + splat(2.f) * s * p;
    return x > splat(threshold) || x != x ? x : y;
}

template <int DT> static void row(int64_t what, char* out, const char* a, const char* b, int64_t n, double eps) {
    auto same = [](v8 x) { return x; };
    switch (what) {
        case SOFTMAX: {
            const float top = row_max<DT>(a, n);
            const v8 most = splat(top), total = splat(float(exponentials<DT>(a, n, top)));
            each<DT>(out, a, nullptr, n, [&](v8 x, v8) { return exp(x - most) / total; });
            break;
        }
        case LOG_SOFTMAX: {
            const float total = log_sum<DT>(a, n);
            const v8 less = splat(total == std::numeric_limits<float>::infinity() ? total - total : total);  // NaN, as torch has it
            each<DT>(out, a, nullptr, n, [&](v8 x, v8) { return x - less; });
            break;
        }
        case LOGSUMEXP: store_one<DT>(out, 0, log_sum<DT>(a, n)); break;
        case MEAN: store_one<DT>(out, 0, float(row_sum<DT>(a, n, same) / double(n))); break;
        case SUM: store_one<DT>(out, 0, float(lane_sum<DT>(a, n))); break;
        case CUMSUM: {
            double sum = 0;
            for (int64_t i = 0; i < n; i++) store_one<DT>(out, i, float(sum += double(one_as<DT>(a, i))));
            break;
        }
        case RMSNORM: {
            const float mean = float(row_sum<DT>(a, n, [](v8 x) { return x * x; }) / double(n));
            const v8 scale = splat(float(1.0 / std::sqrt(double(mean + float(eps)))));
            each<DT>(out, a, b, n, [&](v8 x, v8 w) { return b ? rounded<DT>(x * scale) * w : x * scale; });
            break;
        }
        case SIGMOID: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return sigmoid(x); }); break;
        case SOFTPLUS: each<DT>(out, a, nullptr, n, [&](v8 x, v8) { return softplus(x, float(eps)); }); break;
        case SILU: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return silu(x); }); break;
        case GELU: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return gelu(x); }); break;
        case GELU_TANH: each<DT>(out, a, nullptr, n, [](v8 x, v8) { return gelu_tanh(x); }); break;
        // Of what stands before it in the list: a is the gradient, b the op's result (softmaxes, sigmoid, tanh) or what it was given.
        case SOFTMAX_GRAD: {
            const v8 total = splat(float(weighted<DT>(a, b, n)));
            each<DT>(out, a, b, n, [&](v8 g, v8 y) { return y * (g - total); });
            break;
        }
        case LOG_SOFTMAX_GRAD: {
            const v8 total = splat(float(lane_sum<DT>(a, n)));
            each<DT>(out, a, b, n, [&](v8 g, v8 y) { return g - exp(y) * total; });
            break;
        }
        case SIGMOID_GRAD: each<DT>(out, a, b, n, [](v8 g, v8 y) { return g * ((splat(1.f) - y) * y); }); break;
        case TANH_GRAD: each<DT>(out, a, b, n, [](v8 g, v8 y) { return g * (splat(1.f) - y * y); }); break;
        case SILU_GRAD:
            each<DT>(out, a, b, n, [](v8 g, v8 x) {
                const v8 s = sigmoid(x);
                return g * (s * (splat(1.f) + x * (splat(1.f) - s)));
            });
            break;
        case GELU_GRAD: each<DT>(out, a, b, n, [](v8 g, v8 x) { return g * gelu_slope(x); }); break;
        case GELU_TANH_GRAD: each<DT>(out, a, b, n, [](v8 g, v8 x) { return g * gelu_tanh_slope(x); }); break;
        case SILU_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(silu(x)) * y; }); break;
        case GELU_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(gelu(x)) * y; }); break;
        case GELU_TANH_MUL: each<DT>(out, a, b, n, [](v8 x, v8 y) { return rounded<DT>(gelu_tanh(x)) * y; }); break;
    }
}

static constexpr int64_t THREAD_WORK = int64_t(1) << 14;  // elements that pay for waking a thread: a norm of a few rows is done before it is up
static constexpr int64_t SLOW = 16;                       // plain elements that one with erf or tanh takes as long as

template <int DT> static void rows(int64_t what, char* out, int64_t out_width, const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t M, int64_t n, double eps, int64_t threads) {
    const int64_t size = bytes_of(DT), cost = what == GELU || what == GELU_TANH || what == GELU_MUL || what == GELU_TANH_MUL || what == GELU_GRAD || what == GELU_TANH_GRAD ? SLOW : 1;
    in_parallel(M, std::min(threads, 1 + M * n * cost / THREAD_WORK), [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; m++)
            row<DT>(what, out + m * out_width * size, a + m * a_stride * size, b ? b + m * b_stride * size : nullptr, n, eps);
    });
}

// a[M, n] of rows a_stride elements apart, out[M, out_width] dense, of dtype; eps: of a norm, or softplus' threshold; b: a second operand [M, n] of rows b_stride apart, or
// with a stride of 0 a weight [n] for all rows, or null.
extern "C" void detcheck_rowwise(int64_t what, int64_t dtype, char* out, int64_t out_width, const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t M, int64_t n, double eps, int64_t threads) {
    if (dtype == F32) rows<F32>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
    if (dtype == BF16) rows<BF16>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
    if (dtype == F16) rows<F16>(what, out, out_width, a, a_stride, b, b_stride, M, n, eps, threads);
}

// A row less its mean, by its standard deviation, each element times a weight, plus a bias: element i of row m has those at
// m % groups * (n / span) + i / span. weight, bias: of dtype, or null. Everything is in float64 up to the one rounding.
template <int DT> static void norms(char* out, float* means, float* scales, const char* x, int64_t x_stride, const char* weight, const char* bias, int64_t M, int64_t n, int64_t span, int64_t groups, double eps, int64_t threads) {
    const int64_t size = bytes_of(DT);
    in_parallel(M, std::min(threads, 1 + M * n / THREAD_WORK), [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; m++) {
            const char* row = x + m * x_stride * size;
            char* to = out + m * n * size;
            const double mean = row_sum<DT>(row, n, [](v8 v) { return v; }) / double(n);
            const double scale = 1.0 / std::sqrt(row_squares<DT>(row, n, mean) / double(n) + eps);
            means[m] = float(mean), scales[m] = float(scale);
            const int64_t first = m % groups * (n / span);
            auto normed = [&](v8 v) { return (__builtin_convertvector(v, d8) - mean) * scale; };
            auto wide = [](v8 v) { return __builtin_convertvector(v, d8); };
            auto narrow = [](d8 v) { return __builtin_convertvector(v, v8); };
            if (span == 1) {
                auto at = [&](const char* p, int64_t i, float none) { return wide(p ? load_as<DT>(p, first + i) : splat(none)); };
                auto one = [&](const char* p, int64_t i, float none) { return double(p ? one_as<DT>(p, first + i) : none); };
                int64_t i = 0;
                for (; i + 8 <= n; i += 8) store_as<DT>(to, i, narrow(normed(load_as<DT>(row, i)) * at(weight, i, 1.f) + at(bias, i, 0.f)));
                for (; i < n; i++) store_one<DT>(to, i, float((double(one_as<DT>(row, i)) - mean) * scale * one(weight, i, 1.f) + one(bias, i, 0.f)));
                continue;
            }
            for (int64_t c = 0; c * span < n; c++) {
                const double w = weight ? one_as<DT>(weight, first + c) : 1.0, b = bias ? one_as<DT>(bias, first + c) : 0.0;
                int64_t i = c * span;
                for (; i + 8 <= (c + 1) * span; i += 8) store_as<DT>(to, i, narrow(normed(load_as<DT>(row, i)) * w + b));
                for (; i < (c + 1) * span; i++) store_one<DT>(to, i, float((double(one_as<DT>(row, i)) - mean) * scale * w + b));
            }
        }
    });
}

// x[M, n] of rows x_stride elements apart, out[M, n] dense; means[M] and scales[M] are what the backward pass is given.
extern "C" void detcheck_norm(int64_t dtype, char* out, float* means, float* scales, const char* x, int64_t x_stride, const char* weight, const char* bias, int64_t M, int64_t n, int64_t span, int64_t groups, double eps, int64_t threads) {
    if (dtype == F32) norms<F32>(out, means, scales, x, x_stride, weight, bias, M, n, span, groups, eps, threads);
    if (dtype == BF16) norms<BF16>(out, means, scales, x, x_stride, weight, bias, M, n, span, groups, eps, threads);
    if (dtype == F16) norms<F16>(out, means, scales, x, x_stride, weight, bias, M, n, span, groups, eps, threads);
}
