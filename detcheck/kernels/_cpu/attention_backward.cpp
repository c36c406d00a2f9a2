// Gradients of attention. Weights are computed again, in float32, and everything is added one thing after the other.
//
// A query's own gradient is a sum over its own keys, from the first that it sees; a key's and a value's are sums over the queries that see it,
// from first to last, of one head after the other where several share keys. A query whose gradient is zero adds zeros, which change nothing. So
// padding on either side and neighbours do not reach a sample's bits. Threads only take other requests and other heads of keys.
#include "sums.h"

struct Sizes { int64_t batch, heads, queries, dim, kv_heads, keys; };

static constexpr int64_t LANES = 8;

// row[dim] as float32, filled up with zeros to whole lanes.
template <int DT> static void widen(float* to, const char* row, int64_t dim, int64_t wide) {
    for (int64_t d = 0; d < dim; d++) to[d] = one_as<DT>(row, d);
    for (int64_t d = dim; d < wide; d++) to[d] = 0.f;
}

static inline float dot(const float* a, const float* b, int64_t wide) {
    v8 sum = splat(0.f);
    for (int64_t d = 0; d < wide; d += LANES) sum = fma(load(a + d), load(b + d), sum);
    return add_lanes(sum);
}

static inline void add_scaled(float* sum, float factor, const float* x, int64_t wide) {
    const v8 f = splat(factor);
    for (int64_t d = 0; d < wide; d += LANES) store(sum + d, fma(f, load(x + d), load(sum + d)));
}

template <int DT> static void one_head(char* dq, char* dk, char* dv, const char* grad, const char* q, const char* k, const char* v, const int32_t* low, const int32_t* high, const Sizes& n, double scale, double soft_cap, int64_t request, int64_t kv) {
    const int64_t share = n.heads / n.kv_heads, dim = n.dim, wide = (dim + LANES - 1) / LANES * LANES, size = bytes_of(DT) * dim;
    std::vector<float> keys(n.keys * wide), values(n.keys * wide), for_keys(n.keys * wide), for_values(n.keys * wide);
    std::vector<float> query(wide), own(wide), for_query(wide), weight(n.keys), slope(n.keys), capped(n.keys);
    const int64_t first = (request * n.kv_heads + kv) * n.keys;
    for (int64_t j = 0; j < n.keys; j++) widen<DT>(&keys[j * wide], k + (first + j) * size, dim, wide), widen<DT>(&values[j * wide], v + (first + j) * size, dim, wide);
    for (int64_t h = kv * share; h < (kv + 1) * share; h++) {
        for (int64_t i = 0; i < n.queries; i++) {
            const int64_t begin = low[request * n.queries + i], end = high[request * n.queries + i], at = (request * n.heads + h) * n.queries + i;
            std::fill(for_query.begin(), for_query.end(), 0.f);
            widen<DT>(query.data(), q + at * size, dim, wide), widen<DT>(own.data(), grad + at * size, dim, wide);
            float most = -std::numeric_limits<float>::infinity();
            for (int64_t j = begin; j < end; j++) {
                float s = dot(query.data(), &keys[j * wide], wide) * float(scale);
                if (soft_cap != 0) capped[j] = float(std::tanh(double(s) / soft_cap)), s = float(soft_cap * double(capped[j]));
                weight[j] = s, most = s > most || s != s ? s : most;
            }
            double total = 0, mean = 0;
            for (int64_t j = begin; j < end; j++) total += double(weight[j] = exp(splat(weight[j] - most))[0]);
            for (int64_t j = begin; j < end; j++) {
                weight[j] = float(double(weight[j]) / total);
                slope[j] = dot(own.data(), &values[j * wide], wide);
                mean += double(weight[j]) * double(slope[j]);
            }
            for (int64_t j = begin; j < end; j++) {
                float s = weight[j] * (slope[j] - float(mean)) * float(scale);
                if (soft_cap != 0) s *= 1.f - capped[j] * capped[j];
                add_scaled(for_query.data(), s, &keys[j * wide], wide);
                add_scaled(&for_keys[j * wide], s, query.data(), wide);
                add_scaled(&for_values[j * wide], weight[j], own.data(), wide);
            }
            for (int64_t d = 0; d < dim; d++) store_one<DT>(dq, at * dim + d, for_query[d] + 0.f);
        }
    }
    for (int64_t j = 0; j < n.keys; j++)
        for (int64_t d = 0; d < dim; d++) store_one<DT>(dk, (first + j) * dim + d, for_keys[j * wide + d] + 0.f), store_one<DT>(dv, (first + j) * dim + d, for_values[j * wide + d] + 0.f);
}

// All dense: dq, grad, q [B, H, L, D]; dk, dv, k, v [B, KH, S, D]; query i of request b sees the keys low[b, i] to high[b, i] - 1.
extern "C" void detcheck_attention_backward(int64_t dtype, char* dq, char* dk, char* dv, const char* grad, const char* q, const char* k, const char* v, const int32_t* low, const int32_t* high, int64_t batch, int64_t heads, int64_t queries, int64_t dim, int64_t kv_heads, int64_t keys, double scale, double soft_cap, int64_t threads) {
    const Sizes n{batch, heads, queries, dim, kv_heads, keys};
    in_parallel(batch * kv_heads, threads, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; task++) {
            const int64_t request = task / kv_heads, kv = task % kv_heads;
            if (dtype == F32) one_head<F32>(dq, dk, dv, grad, q, k, v, low, high, n, scale, soft_cap, request, kv);
            if (dtype == BF16) one_head<BF16>(dq, dk, dv, grad, q, k, v, low, high, n, scale, soft_cap, request, kv);
            if (dtype == F16) one_head<F16>(dq, dk, dv, grad, q, k, v, low, high, n, scale, soft_cap, request, kv);
        }
    });
}
