// Depthwise convolution over one dimension: each channel by its own filter, one step apart.
//
// Each output is a sum by itself, in float64 and in the order of the filter's taps, plus a bias, rounded once. A tap beyond the ends adds
// nothing, and nothing is what a token of zeros adds: padding that is part of the input gives the same bits.
#include "common.h"

typedef double d8 __attribute__((vector_size(64)));

static constexpr int64_t THREAD_WORK = int64_t(1) << 14;  // products that pay for waking a thread

template <int DT> static void channel(char* out, const char* x, const char* filter, double bias, int64_t length, int64_t taps, int64_t padding, int64_t outputs) {
    auto edge = [&](int64_t l) {
        double sum = 0;
        for (int64_t k = std::max<int64_t>(0, padding - l); k < taps && l + k - padding < length; k++) sum += double(one_as<DT>(x, l + k - padding)) * double(one_as<DT>(filter, k));
        store_one<DT>(out, l, float(sum + bias));
    };
    int64_t l = 0;
    for (; l < std::min(padding, outputs); l++) edge(l);
    for (; l + 8 <= outputs && l + 7 + taps - 1 - padding < length; l += 8) {
        d8 sum = {0, 0, 0, 0, 0, 0, 0, 0};
        for (int64_t k = 0; k < taps; k++) sum += __builtin_convertvector(load_as<DT>(x, l + k - padding), d8) * double(one_as<DT>(filter, k));
        sum += bias;
        store_as<DT>(out, l, __builtin_convertvector(sum, v8));
    }
    for (; l < outputs; l++) edge(l);
}

// x[M, C, length] of rows x_row and channels x_channel elements apart, filters[C, taps] and out[M, C, outputs] dense, bias[C] or null.
// Output l of a channel begins `padding` before place l.
template <int DT> static void all(char* out, const char* x, int64_t x_row, int64_t x_channel, const char* filters, const char* bias, int64_t M, int64_t C, int64_t length, int64_t taps, int64_t padding, int64_t outputs, int64_t threads) {
    const int64_t size = bytes_of(DT);
    in_parallel(M * C, std::min(threads, 1 + M * C * outputs * taps / THREAD_WORK), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            channel<DT>(out + i * outputs * size, x + (i / C * x_row + i % C * x_channel) * size, filters + i % C * taps * size, bias ? one_as<DT>(bias, i % C) : 0.0, length, taps, padding, outputs);
    });
}

extern "C" void detcheck_conv1d(int64_t dtype, char* out, const char* x, int64_t x_row, int64_t x_channel, const char* filters, const char* bias, int64_t M, int64_t C, int64_t length, int64_t taps, int64_t padding, int64_t outputs, int64_t threads) {
    if (dtype == F32) all<F32>(out, x, x_row, x_channel, filters, bias, M, C, length, taps, padding, outputs, threads);
    if (dtype == BF16) all<BF16>(out, x, x_row, x_channel, filters, bias, M, C, length, taps, padding, outputs, threads);
    if (dtype == F16) all<F16>(out, x, x_row, x_channel, filters, bias, M, C, length, taps, padding, outputs, threads);
}
