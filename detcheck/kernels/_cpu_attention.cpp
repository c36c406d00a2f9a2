// Attention of each query over its own keys, in one order whatever else is in the batch.
//
// A query sees the keys [low, high). They are cut into splits of SPLIT keys counted from `low`: a fixed size, never a fixed
// number. Split by split, scores are dot products (see _cpu_dot.h); the running maximum, sum and output are rescaled where a
// split raises the maximum; a split's weights are summed in 8 lanes; values are added key by key, product fused into sum.
// Nothing of that depends on how many queries run together, so prefill, chunked prefill and decode agree, and neither does
// it depend on padding, since it is counted from the first key that is seen. A key that is not seen is never multiplied.
#include "_cpu_dot.h"

static constexpr int64_t SPLIT = 128;  // keys; part of the result's definition
// Prefill at heads of 64 takes up to 1.23 of SDPA's time: a dot product is 8 steps there, so adding up its lanes costs a quarter.
static constexpr int64_t TILE = 24;    // queries (of all heads that share keys) that go through the keys together

// out[MR, D] += p[MR, keys] * v[keys, D]
template <int MR, int NV> static inline void add_values_at(const float* p, const float* v, int64_t v_stride, float* out, int64_t D, int64_t d, int64_t keys) {
    v8 sums[MR][NV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) sums[i][j] = load(out + i * D + d + 8 * j);
    for (int64_t k = 0; k < keys; k++) {
        v8 x[NV];
        for (int j = 0; j < NV; j++) {
            x[j] = load(v + k * v_stride + d + 8 * j);
            IN_REGISTER(x[j]);
        }
        for (int i = 0; i < MR; i++) {
            v8 weight = splat(p[i * SPLIT + k]);
            for (int j = 0; j < NV; j++) sums[i][j] = fma(weight, x[j], sums[i][j]);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NV; j++) store(out + i * D + d + 8 * j, sums[i][j]);
}

template <int MR> static inline void add_values(const float* p, const float* v, int64_t v_stride, float* out, int64_t D, int64_t keys) {
    int64_t d = 0;
    for (; d + 32 <= D; d += 32) add_values_at<MR, 4>(p, v, v_stride, out, D, d, keys);
    for (; d < D; d += 8) add_values_at<MR, 1>(p, v, v_stride, out, D, d, keys);
}

// `keys` rows of D elements as float32: where they are, or copied to `buffer`.
template <int DT> static const float* widened(const char* from, int64_t stride, int64_t keys, int64_t D, std::vector<float>& buffer, int64_t& stride_out) {
    if (DT == F32) {
        stride_out = stride;
        return reinterpret_cast<const float*>(from);
    }
    for (int64_t k = 0; k < keys; k++)
        for (int64_t d = 0; d < D; d += 8) store(&buffer[k * D + d], load_as<DT>(from + k * stride * 2, d));
    stride_out = D;
    return buffer.data();
}

struct Shape {
    int64_t B, H, L, D, KH, S;
    int64_t k_b, k_h, k_s, v_b, v_h, v_s;  // strides in elements; the last dimension is dense
};

template <int DT>
static void attention(const float* q, const char* k, const char* v, const int32_t* low, const int32_t* high, float* out, const Shape& s, float scale, float cap, int64_t threads) {
    int64_t size = bytes_of(DT), share = s.H / s.KH, rows_all = share * s.L, tiles = (rows_all + TILE - 1) / TILE;
    in_parallel(s.B * s.KH * tiles, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> k_wide(DT == F32 ? 0 : SPLIT * s.D), v_wide(k_wide.size()), queries(TILE * s.D), sums(TILE * s.D), scores(TILE * SPLIT);
        float most[TILE], total[TILE];
        int32_t lows[TILE], highs[TILE];
        float* to[TILE];
        for (int64_t t = begin; t < end; t++) {
            int64_t b = t / (s.KH * tiles), kh = t / tiles % s.KH, r0 = t % tiles * TILE, R = std::min(TILE, rows_all - r0);
            for (int64_t r = 0; r < R; r++) {  // rows are ordered by query, then head, so that neighbours see the same keys
                int64_t i = (r0 + r) / share, h = kh * share + (r0 + r) % share, at = ((b * s.H + h) * s.L + i) * s.D;
                lows[r] = low ? low[b * s.L + i] : 0, highs[r] = high ? high[b * s.L + i] : int32_t(s.S - s.L + 1 + i);
                to[r] = out + at;
                for (int64_t d = 0; d < s.D; d++) queries[r * s.D + d] = q[at + d] * scale;
                most[r] = -std::numeric_limits<float>::infinity(), total[r] = 0.f;
            }
            std::fill(sums.begin(), sums.end(), 0.f);
            for (int64_t g = 0, g_end; g < R; g = g_end) {  // a group of rows whose splits begin at the same key
                int32_t last = highs[g];
                for (g_end = g + 1; g_end < R && lows[g_end] == lows[g]; g_end++) last = std::max(last, highs[g_end]);
                for (int64_t c = lows[g]; c < last; c += SPLIT) {
                    int64_t keys = std::min<int64_t>(SPLIT, last - c), k_stride, v_stride, j = 0;
                    const float* K = widened<DT>(k + (b * s.k_b + kh * s.k_h + c * s.k_s) * size, s.k_s, keys, s.D, k_wide, k_stride);
                    const float* V = widened<DT>(v + (b * s.v_b + kh * s.v_h + c * s.v_s) * size, s.v_s, keys, s.D, v_wide, v_stride);
                    const char* K_bytes = reinterpret_cast<const char*>(K);
                    for (; j + 4 <= keys; j += 4) rows_of<4, F32>(&queries[g * s.D], s.D, K_bytes + j * k_stride * 4, k_stride * 4, &scores[g * SPLIT + j], SPLIT, g_end - g, s.D, true);
                    for (; j < keys; j++) rows_of<1, F32>(&queries[g * s.D], s.D, K_bytes + j * k_stride * 4, k_stride * 4, &scores[g * SPLIT + j], SPLIT, g_end - g, s.D, true);
                    int64_t seen[TILE];
                    for (int64_t r = g; r < g_end; r++) {
                        seen[r] = std::max<int64_t>(0, std::min<int64_t>(keys, highs[r] - c));
                        if (seen[r] == 0) continue;
                        float* row = &scores[r * SPLIT];
                        if (cap > 0.f) for (int64_t x = 0; x < seen[r]; x++) row[x] = cap * std::tanh(row[x] / cap);
                        float high_now = most[r];
                        for (int64_t x = 0; x < seen[r]; x++) high_now = row[x] > high_now || row[x] != row[x] ? row[x] : high_now;
                        int64_t filled = (seen[r] + 7) / 8 * 8;  // lanes beyond what is seen add zeros
                        for (int64_t x = seen[r]; x < filled; x++) row[x] = -std::numeric_limits<float>::infinity();
                        v8 top = splat(high_now), sum = splat(0.f);
                        for (int64_t x = 0; x < filled; x += 8) {
                            v8 w = exp(load(row + x) - top);
                            store(row + x, w);
                            sum = sum + w;
                        }
                        float before = most[r] == -std::numeric_limits<float>::infinity() ? 0.f : exp(splat(most[r] - high_now))[0];
                        total[r] = std::fma(total[r], before, add_lanes(sum));
                        if (before != 1.f) for (int64_t d = 0; d < s.D; d++) sums[r * s.D + d] *= before;
                        most[r] = high_now;
                    }
                    for (int64_t r = g, n; r < g_end; r += n) {
                        n = std::min<int64_t>(3, g_end - r);
                        int64_t common = *std::min_element(seen + r, seen + r + n);
                        float *p = &scores[r * SPLIT], *o = &sums[r * s.D];
                        if (n == 3) add_values<3>(p, V, v_stride, o, s.D, common);
                        if (n == 2) add_values<2>(p, V, v_stride, o, s.D, common);
                        if (n == 1) add_values<1>(p, V, v_stride, o, s.D, common);
                        for (int64_t i = 0; i < n; i++)
                            if (seen[r + i] > common) add_values<1>(p + i * SPLIT + common, V + common * v_stride, v_stride, o + i * s.D, s.D, seen[r + i] - common);
                    }
                }
            }
            for (int64_t r = 0; r < R; r++)
                for (int64_t d = 0; d < s.D; d++) to[r][d] = lows[r] < highs[r] ? sums[r * s.D + d] / total[r] : 0.f;
        }
    });
}

// q, out [B, H, L, D] float32, dense; k, v [B, KH, S, D] of dtype with strides; low, high [B, L]: the keys a query sees, or
// null for causal ones, where the last query sees every key.
extern "C" void detcheck_attention(const float* q, const char* k, const char* v, const int32_t* low, const int32_t* high, float* out, const int64_t* shape, int64_t dtype, double scale, double cap, int64_t threads) {
    Shape s;
    std::memcpy(&s, shape, sizeof s);
    if (dtype == F32) attention<F32>(q, k, v, low, high, out, s, float(scale), float(cap), threads);
    if (dtype == BF16) attention<BF16>(q, k, v, low, high, out, s, float(scale), float(cap), threads);
    if (dtype == F16) attention<F16>(q, k, v, low, high, out, s, float(scale), float(cap), threads);
}
