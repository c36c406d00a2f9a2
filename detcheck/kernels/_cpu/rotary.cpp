// Rotary positions: pairs of a head's numbers are turned by an angle that the token's place gives.
//
// Every product is rounded to the dtype, then their sum is, as in models that write it out: an element's bits follow its pair and its angle
// alone, and nothing is added up but the two.
#include "common.h"

// One pair: the numbers at `one` and `two`, by the angle at i of [cosines of half, sines of half].
template <int DT> static inline void turn(char* head, int64_t one, int64_t two, const char* angles, int64_t i, int64_t half) {
    auto times = [](float a, float b) {
        char narrow[4];
        store_one<DT>(narrow, 0, a * b);
        return one_as<DT>(narrow, 0);
    };
    const float x = one_as<DT>(head, one), y = one_as<DT>(head, two), c = one_as<DT>(angles, i), s = one_as<DT>(angles, half + i);
    store_one<DT>(head, one, times(x, c) - times(y, s));
    store_one<DT>(head, two, times(y, c) + times(x, s));
}

template <int DT> static void turn_head(char* head, const char* angles, int64_t half, bool neighbours) {
    int64_t i = 0;
    for (; !neighbours && i + 8 <= half; i += 8) {
        const v8 x = load_as<DT>(head, i), y = load_as<DT>(head, half + i), c = load_as<DT>(angles, i), s = load_as<DT>(angles, half + i);
        store_as<DT>(head, i, rounded<DT>(x * c) - rounded<DT>(y * s));
        store_as<DT>(head, half + i, rounded<DT>(y * c) + rounded<DT>(x * s));
    }
    for (; i < half; i++) turn<DT>(head, neighbours ? 2 * i : i, neighbours ? 2 * i + 1 : half + i, angles, i, half);
}

static constexpr int64_t THREAD_WORK = int64_t(1) << 14;  // elements that pay for waking a thread

template <int DT> static void rotate(char* x, int64_t x_stride, int64_t head_stride, const char* table, int64_t table_stride, const int64_t* places, int64_t tokens, int64_t heads, int64_t half, bool neighbours, int64_t threads) {
    const int64_t size = bytes_of(DT);
    in_parallel(tokens, std::min(threads, 1 + tokens * heads * half * 2 / THREAD_WORK), [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++)
            for (int64_t h = 0; h < heads; h++)
                turn_head<DT>(x + (t * x_stride + h * head_stride) * size, table + places[t] * table_stride * size, half, neighbours);
    });
}

// x[tokens, heads, at least 2 * half], in place; table[places, 2 * half]: cosines, then sines; strides in elements. neighbours: pairs are (0, 1),
// (2, 3) ... and not (0, half), (1, half + 1) ... Where a place is not in the table of `rows` nothing is done, and `unknown` is that token.
extern "C" void detcheck_rotary(int64_t dtype, char* x, int64_t x_stride, int64_t head_stride, const char* table, int64_t table_stride, int64_t rows, const int64_t* places, int64_t tokens, int64_t heads, int64_t half, int64_t neighbours, int64_t threads, int64_t* unknown) {
    for (*unknown = 0; *unknown < tokens; ++*unknown)
        if (places[*unknown] < 0 || places[*unknown] >= rows) return;
    if (dtype == F32) rotate<F32>(x, x_stride, head_stride, table, table_stride, places, tokens, heads, half, neighbours, threads);
    if (dtype == BF16) rotate<BF16>(x, x_stride, head_stride, table, table_stride, places, tokens, heads, half, neighbours, threads);
    if (dtype == F16) rotate<F16>(x, x_stride, head_stride, table, table_stride, places, tokens, heads, half, neighbours, threads);
}
