// Runs every CPU kernel on inputs that are the same on every machine, and prints a hash of each result: `aarch64.py` compares them.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

extern "C" void detcheck_matmul(const char* x, int64_t x_row, const char* w, int64_t w_row, int64_t dtype, const char* bias, char* y, int64_t M, int64_t N, int64_t K, int64_t threads);
extern "C" void detcheck_layout(int64_t dtype, int64_t* group, int64_t* step);
extern "C" void detcheck_pack(const char* w, int64_t w_row, int64_t dtype, char* to, int64_t N, int64_t K, int64_t threads);
extern "C" void detcheck_attention(const char* q, const char* k, const char* v, const int32_t* low, const int32_t* high, const int32_t* table, const int32_t* start, const int32_t* lengths, char* out, int64_t* shape, int64_t dtype, double scale, double cap, int64_t threads);
extern "C" void detcheck_rowwise(int64_t what, int64_t dtype, char* out, int64_t out_width, const char* a, int64_t a_stride, const char* b, int64_t b_stride, int64_t M, int64_t n, double eps, int64_t threads);

static uint64_t state = 1;
static double uniform() { return double((state = state * 6364136223846793005u + 1442695040888963407u) >> 11) / double(uint64_t(1) << 53); }

// Near normal numbers of that size, as float32, bfloat16 or float16 (0, 1, 2), rounded here to be the same everywhere.
static std::vector<char> numbers(int64_t count, int64_t dtype, double size = 1) {
    std::vector<char> made(count * (dtype ? 2 : 4));
    for (int64_t i = 0; i < count; i++) {
        float x = float(size * (uniform() + uniform() + uniform() + uniform() - 2) * 1.7);
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (dtype == 0) std::memcpy(&made[4 * i], &x, 4);
        uint16_t half = uint16_t(bits >> 16);
        if (dtype == 2) {  // truncated; too small becomes zero
            const int exponent = int(bits >> 23 & 255) - 112;
            half = uint16_t(bits >> 16 & 0x8000) | (exponent > 0 ? uint16_t(exponent << 10 | (bits >> 13 & 1023)) : 0);
        }
        if (dtype) std::memcpy(&made[2 * i], &half, 2);
    }
    return made;
}

static void tell(const std::string& name, int64_t dtype, const std::vector<char>& result) {
    uint64_t hash = 14695981039346656037u;
    for (char byte : result) hash = (hash ^ uint8_t(byte)) * 1099511628211u;
    const char* dtypes[] = {"float32", "bfloat16", "float16"};
    std::printf("%s %s %016llx\n", name.c_str(), dtypes[dtype], static_cast<unsigned long long>(hash));
}

int main() {
    const char* names[] = {"softmax", "log_softmax", "mean", "rmsnorm", "silu", "gelu", "gelu_tanh", "silu_mul", "gelu_mul", "gelu_tanh_mul"};
    for (int64_t dtype = 0; dtype < 3; dtype++) {
        const int64_t size = dtype ? 2 : 4;
        for (double scale : {1.0, 1e-19})  // of which the second gives products below the normal numbers
            for (int64_t K : {31, 67, 1091, 4200}) {
                auto x = numbers(13 * K, dtype, scale), w = numbers(37 * K, dtype, scale), bias = numbers(37, dtype, scale * scale);
                std::vector<char> y(13 * 37 * size);
                detcheck_matmul(x.data(), K, w.data(), K, dtype, bias.data(), y.data(), 13, 37, K, 2);
                tell("matmul-" + std::to_string(K) + (scale < 1 ? "-small" : ""), dtype, y);
                int64_t group, step;
                detcheck_layout(dtype, &group, &step);
                std::vector<char> packed((37 + group) * (K + step) * size), again(y.size());
                detcheck_pack(w.data(), K, dtype, packed.data(), 37, K, 2);
                detcheck_matmul(x.data(), K, packed.data(), -1, dtype, bias.data(), again.data(), 13, 37, K, 2);
                if (again != y) return std::printf("a packed weight gives other bits\n"), 1;
            }
        for (int64_t D : {40, 64})
            for (double cap : {0.0, 20.0}) {
                const int64_t R = 2, H = 4, L = 5, KH = 2, S = 300;
                auto q = numbers(R * H * L * D, dtype), k = numbers(R * KH * S * D, dtype), v = numbers(R * KH * S * D, dtype);
                std::vector<char> out(q.size());
                int64_t shape[] = {R, H, L, D, KH, S, H * L * D, L * D, D, H * L * D, L * D, D, KH * S * D, S * D, D, KH * S * D, S * D, D, 0, 0, 0, 0, 0, 0};
                detcheck_attention(q.data(), k.data(), v.data(), nullptr, nullptr, nullptr, nullptr, nullptr, out.data(), shape, dtype, 0.125, cap, 2);
                tell("attention-" + std::to_string(D) + (cap > 0 ? "-cap" : ""), dtype, out);
            }
        for (int64_t what = 0; what < 10; what++)
            for (int64_t n : {67, 1024}) {
                auto a = numbers(5 * n, dtype, 3), b = numbers(5 * n, dtype);
                const int64_t width = what == 2 ? 1 : n;
                std::vector<char> out(5 * width * size);
                const bool two = what == 3 || what > 6;
                detcheck_rowwise(what, dtype, out.data(), width, a.data(), n, two ? b.data() : nullptr, what == 3 ? 0 : n, 5, n, 1e-6, 2);
                tell(std::string(names[what]) + "-" + std::to_string(n), dtype, out);
            }
    }
}
