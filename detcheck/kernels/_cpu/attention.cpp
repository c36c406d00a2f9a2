// Attention of each query over its own keys, in one order whatever else is in the batch.
//
// A query sees the keys [low, high). They are cut into splits of SPLIT keys counted from `low`: a fixed size, never a fixed
// number. Split by split, scores are dot products (micro.h); the running maximum, sum and output are rescaled where a
// split raises the maximum; a split's weights are summed in 8 lanes; values are added key by key, product fused into sum.
// Nothing of that depends on how many queries run together, so prefill, chunked prefill and decode agree, and neither does
// it depend on padding, since it is counted from the first key that is seen. A key that is not seen is never multiplied.
//
// The keys lie in blocks, [blocks, KH, block, D], and a table says which block holds a request's next keys; a dense cache is
// one block a request. A split that lies in several blocks is gone through in pieces: a score is one key's, and values are
// added key by key, so where a piece ends changes nothing.
#include <numeric>
#include "values.h"

static constexpr int64_t TILE = 96;  // queries, of all heads that share keys, that go through the keys together, at most
static constexpr int64_t TURN_FROM = 12;  // queries that pay for turning the keys
static constexpr int64_t FEW = 6;         // queries that do not pay for a copy of halves as float32: they are converted where they are used

// `keys` rows of D elements as float32, each filled up with zeros to `wide` elements.
template <int DT> static void widen(const char* from, int64_t stride_bytes, int64_t keys, int64_t D, float* to, int64_t wide) {
    for (int64_t k = 0; k < keys; k++, to += wide, from += stride_bytes) {
        int64_t d = 0;
        for (; d + 8 <= D; d += 8) store(to + d, load_as<DT>(from, d));
        if (d < D) store(to + d, filled_up<DT>(from, d, D));
    }
}

struct Shape {
    int64_t R, H, L, D, KH, block;                             // L: queries a request, where `start` is null; block: keys a block
    int64_t q_r, q_h, q_t, o_r, o_h, o_t;                      // strides in elements; the last dimension is dense.
    int64_t k_b, k_h, k_s, v_b, v_h, v_s;                      // q_r, o_r: where `start` is null
    int64_t window, tokens, blocks, columns, table_r, refused;  // table[R, columns]; refused: written, see `unfit`
};

struct Call {
    const char *q, *k, *v;
    const int32_t *low, *high, *table, *start, *lengths;  // null: see detcheck_attention
    char* out;
    Shape s;

    int64_t queries(int64_t r) const { return start ? start[r + 1] - start[r] : s.L; }
    int64_t first(int64_t r, int64_t r_stride, int64_t t_stride) const { return start ? start[r] * t_stride : r * r_stride; }
    int64_t block_of(int64_t r, int64_t key) const { return table ? table[r * s.table_r + key / s.block] : r; }
    int32_t end(int64_t r, int64_t i) const {
        return high ? high[r * s.L + i] : int32_t((lengths ? lengths[r] : s.block) - queries(r) + 1 + i);
    }
    int32_t begin(int64_t r, int64_t i) const {
        return low ? low[r * s.L + i] : s.window ? int32_t(std::max<int64_t>(0, end(r, i) - s.window)) : 0;
    }
};

// Has memory start to fetch rows that come next: blocks lie anywhere, so the processor cannot guess where. No effect on bits.
static inline void fetch(const char* from, int64_t stride_bytes, int64_t keys, int64_t row_bytes) {
    for (int64_t k = 0; k < keys; k++)
        for (int64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(from + k * stride_bytes + at);
}

// A thread's own memory, kept from call to call: a decode takes microseconds, and fresh pages would be much of them. Each part begins a
// cache line, since a register full across two of them takes twice as long to read.
struct Scratch {
    std::vector<float> all;
    float *k, *v, *queries, *sums, *scores;
    void fit(int64_t wide) {
        const int64_t sizes[] = {SPLIT * wide, SPLIT * wide, TILE * wide, TILE * wide, TILE * SPLIT}, line = 16;
        all.resize(std::max<size_t>(all.size(), std::accumulate(sizes, sizes + 5, line)));
        float* at = all.data() + (line - reinterpret_cast<uintptr_t>(all.data()) / 4 % line) % line;
        float** parts[] = {&k, &v, &queries, &sums, &scores};
        for (int i = 0; i < 5; at += sizes[i++]) *parts[i] = at;
    }
};

// Rows r0 to r0 + R of request `b` and heads `kh` of keys. Rows are ordered by query, then head, so that neighbours see the
// same keys.
template <int DT> static void tile(const Call& call, int64_t b, int64_t kh, int64_t r0, int64_t R, float scale, float cap, Scratch& m) {
    const Shape& s = call.s;
    const int64_t size = bytes_of(DT), share = s.H / s.KH, wide = (s.D + 7) / 8 * 8;
    constexpr int AS = DT == BF16 ? int(WIDENED) : DT;
    float most[TILE], total[TILE];
    int32_t lows[TILE], highs[TILE];
    char* to[TILE];
    Piece pieces[SPLIT];
    const char* from[TILE];
    for (int64_t r = 0; r < R; r++) {
        int64_t i = (r0 + r) / share, h = kh * share + (r0 + r) % share;
        lows[r] = call.begin(b, i), highs[r] = call.end(b, i);
        to[r] = call.out + (call.first(b, s.o_r, s.o_t) + i * s.o_t + h * s.o_h) * size;
        from[r] = call.q + (call.first(b, s.q_r, s.q_t) + i * s.q_t + h * s.q_h) * size;
        fetch(from[r], 0, 1, s.D * size);
        most[r] = -std::numeric_limits<float>::infinity(), total[r] = 0.f;
    }
    for (int64_t r = 0; r < R; r++) {
        float* query = m.queries + r * wide;
        widen<DT>(from[r], 0, 1, s.D, query, wide);
        for (int64_t d = 0; d < wide; d += 8) store(query + d, load(query + d) * splat(scale));
    }
    std::fill_n(m.sums, R * wide, 0.f);
    for (int64_t g = 0, g_end; g < R; g = g_end) {  // a group of rows whose splits begin at the same key
        int32_t last = highs[g];
        for (g_end = g + 1; g_end < R && lows[g_end] == lows[g]; g_end++) last = std::max(last, highs[g_end]);
        for (int64_t c = lows[g]; c < last; c += SPLIT) {
            int64_t keys = std::min<int64_t>(SPLIT, last - c), parts = 0;
            for (int64_t j = 0, n; j < keys; j += n) {
                int64_t block = call.block_of(b, c + j), inside = (c + j) % s.block;
                n = std::min(s.block - inside, keys - j);
                pieces[parts++] = {
                    call.k + (block * s.k_b + kh * s.k_h + inside * s.k_s) * size,
                    call.v + (block * s.v_b + kh * s.v_h + inside * s.v_s) * size, j, n};
            }
            const bool turned = g_end - g >= TURN_FROM, copied = wide != s.D || (DT != F32 && g_end - g > FEW);
            const float* queries = m.queries + g * wide;
            int64_t seen[TILE];
            for (int64_t r = g; r < g_end; r++) seen[r] = std::max<int64_t>(0, std::min<int64_t>(keys, highs[r] - c));
            for (int64_t p = 0; p < parts; p++) {
                const Piece& piece = pieces[p];
                if (p + 1 < parts) fetch(pieces[p + 1].k, s.k_s * size, pieces[p + 1].keys, s.D * size);
                if (parts > 1) fetch(piece.v, s.v_s * size, piece.keys, s.D * size);
                if (copied) widen<DT>(piece.v, s.v_s * size, piece.keys, s.D, m.v + piece.begin * wide, wide);
                if (turned) turn_keys<DT>(piece.k, s.k_s * size, piece.begin, piece.keys, s.D, m.k, wide);
                else if (copied) widen<DT>(piece.k, s.k_s * size, piece.keys, s.D, m.k + piece.begin * wide, wide);
                else scores_of_rows<AS>(queries, g_end - g, piece.k, s.k_s * size, piece.keys, m.scores + g * SPLIT + piece.begin, wide);
            }
            if (turned) turned_scores(queries, g_end - g, m.k, seen + g, m.scores + g * SPLIT, wide);
            else if (copied) scores_of_rows<F32>(queries, g_end - g, reinterpret_cast<char*>(m.k), wide * 4, keys, m.scores + g * SPLIT, wide);
            if (copied) parts = 1, pieces[0] = {nullptr, reinterpret_cast<char*>(m.v), 0, keys};
            for (int64_t r = g; r < g_end; r++) {
                if (seen[r] == 0) continue;
                float* row = m.scores + r * SPLIT;
                // In float64: libraries differ in their tanh of float32.
                if (cap > 0.f) for (int64_t x = 0; x < seen[r]; x++) row[x] = cap * float(std::tanh(double(row[x] / cap)));
                const int64_t filled = hide(row, seen[r]);
                const float high_now = highest(row, filled, most[r]), step = most[r] - high_now;
                v8 sum = raise(row, filled, high_now);
                float before = step == 0.f ? 1.f : most[r] == -std::numeric_limits<float>::infinity() ? 0.f : exp(splat(step))[0];
                total[r] = std::fma(total[r], before, add_lanes(sum));
                if (before != 1.f) for (int64_t d = 0; d < wide; d++) m.sums[r * wide + d] *= before;
                most[r] = high_now;
            }
            for (const Piece* piece = pieces; piece < pieces + parts; piece++) {
                auto add = copied ? add_piece<F32> : add_piece<AS>;
                add(m.scores, *piece, copied ? wide * 4 : s.v_s * size, seen, m.sums, wide, g, g_end);
            }
        }
    }
    for (int64_t r = 0; r < R; r++) {
        float *sum = &m.sums[r * wide], by = lows[r] < highs[r] ? total[r] : 1.f;  // no keys: the sums are zeros
        int64_t d = 0;
        for (; d + 8 <= s.D; d += 8) store_as<DT>(to[r], d, load(sum + d) / splat(by));
        for (; d < s.D; d++) store_one<DT>(to[r], d, sum[d] / by);
    }
}

// Tiles are handed out one by one, since requests are unlike: whoever is free takes the next, from the end, where a causal
// mask has the most keys. Who computes a tile, when, and how high it is, does not reach into a row of it.
template <int DT> static void attention(const Call& call, float scale, float cap, int64_t threads) {
    const Shape& s = call.s;
    const int64_t share = s.H / s.KH;
    std::vector<int64_t> ends(s.R);  // tiles of requests 0 to r
    auto tiles_of = [&](int64_t r, int64_t most) { return (share * call.queries(r) + most - 1) / most; };
    auto count = [&](int64_t most) {
        int64_t all = 0;
        for (int64_t r = 0; r < s.R; r++) ends[r] = all += tiles_of(r, most) * s.KH;
        return all;
    };
    const int64_t most = count(TILE) < 4 * threads ? TILE / 2 : TILE;  // few are lower, so that all threads have some
    std::atomic<int64_t> left(count(most));
    in_parallel(std::min(threads, left.load()), threads, [&](int64_t, int64_t) {
        static thread_local Scratch scratch;
        scratch.fit((s.D + 7) / 8 * 8);
        for (int64_t t; (t = --left) >= 0;) {
            int64_t r = std::upper_bound(ends.begin(), ends.end(), t) - ends.begin(), rows = share * call.queries(r);
            int64_t tiles = tiles_of(r, most), at = t - (r ? ends[r - 1] : 0), height = (rows + tiles - 1) / tiles;
            height = (height + TOGETHER - 1) / TOGETHER * TOGETHER;
            int64_t r0 = std::min(rows, at % tiles * height), R = std::min(height, rows - r0);
            if (R > 0) tile<DT>(call, r, at / tiles, r0, R, scale, cap, scratch);
        }
    });
}

// The first request whose queries are not in q, that has fewer keys than queries or more than blocks in the table, or that
// would look into a block that is not there; R: none.
static int64_t unfit(const Call& call) {
    const Shape& s = call.s;
    for (int64_t r = 0; r < s.R; r++) {
        int64_t queries = call.queries(r), keys = call.lengths[r];
        if (call.start[r] < 0 || queries < 0 || call.start[r + 1] > s.tokens) return r;
        if (queries == 0) continue;
        if (keys < queries || keys > s.columns * s.block) return r;
        for (int64_t key = call.begin(r, 0) / s.block * s.block; key < keys; key += s.block)
            if (call.block_of(r, key) < 0 || call.block_of(r, key) >= s.blocks) return r;
    }
    return s.R;
}

// Dense: q, out [R, H, L, D], k, v [R, KH, block, D], low, high [R, L]: the keys a query sees, or null for causal ones, where
// the last query sees every key. Paged: q, out [tokens, H, D], k, v [blocks, KH, block, D], table [R, columns], start [R + 1],
// lengths [R], low and high null. All of dtype, with strides. shape: a Shape; `refused` becomes the request that does not fit.
extern "C" void detcheck_attention(const char* q, const char* k, const char* v, const int32_t* low, const int32_t* high, const int32_t* table, const int32_t* start, const int32_t* lengths, char* out, int64_t* shape, int64_t dtype, double scale, double cap, int64_t threads) {
    Call call{q, k, v, low, high, table, start, lengths, out, {}};
    std::memcpy(&call.s, shape, sizeof(Shape));
    call.s.refused = start ? unfit(call) : call.s.R;
    std::memcpy(shape, &call.s, sizeof(Shape));
    if (call.s.refused < call.s.R) return;
    if (dtype == F32) attention<F32>(call, float(scale), float(cap), threads);
    if (dtype == BF16) attention<BF16>(call, float(scale), float(cap), threads);
    if (dtype == F16) attention<F16>(call, float(scale), float(cap), threads);
}

// k, v [T, KH, D] to block slots[t] / block, place slots[t] % block of keys, values [blocks, KH, block, D]; not where a slot is
// negative. Strides in elements of `size` bytes. The last of shape becomes the first token whose slot is not there, or T;
// nothing is written if there is one.
extern "C" void detcheck_write_cache(const char* k, const char* v, char* keys, char* values, const int64_t* slots, int64_t* shape, int64_t size) {
    struct { int64_t T, KH, D, blocks, block, k_t, k_h, v_t, v_h, keys_b, keys_h, keys_s, values_b, values_h, values_s, refused; } s;
    std::memcpy(&s, shape, sizeof s);
    s.refused = std::find_if(slots, slots + s.T, [&](int64_t slot) { return slot >= s.blocks * s.block; }) - slots;
    std::memcpy(shape, &s, sizeof s);
    if (s.refused < s.T) return;
    for (int64_t t = 0; t < s.T; t++) {
        if (slots[t] < 0) continue;
        int64_t block = slots[t] / s.block, inside = slots[t] % s.block;
        for (int64_t h = 0; h < s.KH; h++) {
            std::memcpy(keys + (block * s.keys_b + h * s.keys_h + inside * s.keys_s) * size, k + (t * s.k_t + h * s.k_h) * size, s.D * size);
            std::memcpy(values + (block * s.values_b + h * s.values_h + inside * s.values_s) * size, v + (t * s.v_t + h * s.v_h) * size, s.D * size);
        }
    }
}
