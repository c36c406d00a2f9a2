// What this machine can do at most: bytes read a second, and products added a second without any memory.
#include <chrono>
#include "micro.h"

static double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

static volatile float sink;

// Bytes a second of `threads` that each go once through a part of 512 MB, which no cache holds; the best of 5.
extern "C" double peak_read(int64_t threads) {
    const int64_t floats = int64_t(1) << 27;
    std::vector<float> memory(floats, 1.f);
    double best = 0;
    for (int round = 0; round < 5; round++) {
        const double begin = seconds();
        in_parallel(threads, threads, [&](int64_t part, int64_t end) {
            const float* at = memory.data() + floats / threads * part;
            vmax sums[8] = {};
            constexpr int64_t width = sizeof(vmax) / 4;
            for (int64_t i = 0; i + 8 * width <= floats / threads * (end - part); i += 8 * width)
                for (int j = 0; j < 8; j++) sums[j] = sums[j] + get<vmax>(at + i + j * width);
            sink = sums[0][0] + sums[1][0] + sums[2][0] + sums[3][0] + sums[4][0] + sums[5][0] + sums[6][0] + sums[7][0];
        });
        best = std::max(best, 4 * floats / (seconds() - begin));
    }
    return best;
}

// `times` steps of 12 independent sums.
template <typename V, typename Step> static __attribute__((noinline)) float steps(int64_t times, Step step) {
    V sums[12] = {};
    for (int64_t i = 0; i < times; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++) {
            V sum = step(sums[j]);
            IN_REGISTER(sum);
            sums[j] = sum;
        }
    }
    float all = 0;
    for (int j = 0; j < 12; j++) all += sums[j][0];
    return all;
}

// Additions and multiplications a second of `threads`, of which a step does `each`; the best of 5.
template <typename V, typename Step> static double rate(int64_t threads, double each, Step step) {
    const int64_t times = 4000000;
    double best = 0;
    for (int round = 0; round < 5; round++) {
        const double begin = seconds();
        in_parallel(threads, threads, [&](int64_t, int64_t) { sink = steps<V>(times, step); });
        best = std::max(best, each * 12 * times * threads / (seconds() - begin));
    }
    return best;
}

extern "C" double peak_float32(int64_t threads) {
    vmax x = 0.5f - vmax{}, y = 0.25f - vmax{};
    IN_REGISTER(x);
    IN_REGISTER(y);
    return rate<vmax>(threads, 2 * sizeof(vmax) / 4, [=](vmax sum) { return fma(x, y, sum); });
}

// Of the instruction for pairs of bfloat16; 0 where there is none.
extern "C" double peak_bfloat16(int64_t threads) {
#ifdef __AVX512BF16__
    v16 x = (v16)(0x3F003F00u - u16v{}), y = x;
    IN_REGISTER(x);
    IN_REGISTER(y);
    return rate<v16>(threads, 64, [=](v16 sum) { return add_pairs(sum, x, y); });
#else
    return 0 * double(threads);
#endif
}
