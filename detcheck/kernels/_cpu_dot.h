// Groups of dot products, each in the order that its length alone decides: lane j of 8 takes elements j, j + 8, j + 16 ...
// one after the other, product fused into sum, and the lanes are added in the tree of add_lanes.
#pragma once
#include "_cpu.h"

// MR x NR outputs over `length` (a multiple of 8) elements; written, or added to what is there.
template <int MR, int NR, int DT>
static inline void micro(const float* x, int64_t x_stride, const char* w, int64_t w_stride, float* y, int64_t y_stride, int64_t length, bool first) {
    v8 sums[MR][NR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NR; j++) sums[i][j] = splat(0.f);
    for (int64_t k = 0; k < length; k += 8) {
        v8 a[MR];
        for (int i = 0; i < MR; i++) {
            a[i] = load(x + i * x_stride + k);
            IN_REGISTER(a[i]);
        }
        for (int j = 0; j < NR; j++) {
            v8 b = load_as<DT>(w + j * w_stride, k);
            IN_REGISTER(b);
            for (int i = 0; i < MR; i++) sums[i][j] = fma(a[i], b, sums[i][j]);
        }
    }
    for (int i = 0; i < MR; i++) {
        float* out = y + i * y_stride;
        if constexpr (NR % 4 == 0) {
            for (int j = 0; j < NR; j += 4) {
                v4 s = add_lanes(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]);
                if (!first) {
                    v4 before;
                    std::memcpy(&before, out + j, 16);
                    s = before + s;
                }
                std::memcpy(out + j, &s, 16);
            }
        } else {
            for (int j = 0; j < NR; j++) out[j] = first ? add_lanes(sums[i][j]) : out[j] + add_lanes(sums[i][j]);
        }
    }
}

template <int NR, int DT>
static inline void rows_of(const float* x, int64_t x_stride, const char* w, int64_t w_stride, float* y, int64_t y_stride, int64_t rows, int64_t length, bool first) {
    int64_t m = 0;
    for (; m + 3 <= rows; m += 3) micro<3, NR, DT>(x + m * x_stride, x_stride, w, w_stride, y + m * y_stride, y_stride, length, first);
    if (rows - m == 2) micro<2, NR, DT>(x + m * x_stride, x_stride, w, w_stride, y + m * y_stride, y_stride, length, first);
    if (rows - m == 1) micro<1, NR, DT>(x + m * x_stride, x_stride, w, w_stride, y + m * y_stride, y_stride, length, first);
}
