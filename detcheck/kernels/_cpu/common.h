// What the CPU kernels share. Plain C++17 and the compiler's vector types; no torch, and intrinsics only where compilers do
// badly without.
//
// A sum has 8 lanes on every machine, so the order of additions, and with it the bits, does not depend on the width of the
// registers: where they hold 16 numbers, the lanes of two sums share one. Products are fused into sums where the source says fma,
// and nowhere else (-ffp-contract=off); a machine that cannot do that is refused, since its bits would be others.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(__FMA__) && !defined(__ARM_FEATURE_FMA)
#error "detcheck's CPU kernels need fused multiply-add"
#endif

typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i8v __attribute__((vector_size(32)));
typedef uint16_t h8 __attribute__((vector_size(16)));
typedef uint32_t u8v __attribute__((vector_size(32)));
#if defined(__aarch64__)
typedef __fp16 f16;
#elif !defined(__F16C__)
typedef _Float16 f16;
#endif
#if defined(__AVX512F__)
#define WIDE_REGISTERS 1
typedef float v16 __attribute__((vector_size(64)));
typedef v16 vmax;
#else
typedef v8 vmax;
#endif

// Any vector, from and to memory.
template <typename V> static inline V get(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <typename V> static inline void put(void* p, V v) { std::memcpy(p, &v, sizeof v); }

enum Dtype : int64_t { F32 = 0, BF16 = 1, F16 = 2, WIDENED = 3 };  // WIDENED: bfloat16 whose products are those of float32
static inline constexpr int64_t bytes_of(int64_t dtype) { return dtype == F32 ? 4 : 2; }

static inline v8 splat(float x) { return v8{x, x, x, x, x, x, x, x}; }
static inline v8 load(const float* p) { v8 v; std::memcpy(&v, p, 32); return v; }
static inline void store(float* p, v8 v) { std::memcpy(p, &v, 32); }

// a * b + c with one rounding. Said explicitly: a compiler that may fuse does so in some loops and not in others.
static inline v8 fma(v8 a, v8 b, v8 c) {
#if defined(__x86_64__)
    return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    float32x4_t x[2], y[2], z[2];
    std::memcpy(x, &a, 32), std::memcpy(y, &b, 32), std::memcpy(z, &c, 32);
    z[0] = vfmaq_f32(z[0], x[0], y[0]), z[1] = vfmaq_f32(z[1], x[1], y[1]);
    std::memcpy(&c, z, 32);
    return c;
#else
    for (int j = 0; j < 8; j++) c[j] = std::fma(a[j], b[j], c[j]);
    return c;
#endif
}

#ifdef WIDE_REGISTERS
static inline v16 fma(v16 a, v16 b, v16 c) { return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#endif

// Keeps a vector in a register: compilers otherwise read it from memory again for each of its uses. No effect on bits.
#if defined(__x86_64__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define IN_REGISTER(v) (void)0
#endif

// 8 elements of any dtype as float32. Exact.
template <int DT> static inline v8 load_as(const void* base, int64_t index) {
    if constexpr (DT == F32) return load(static_cast<const float*>(base) + index);
    const uint16_t* p = static_cast<const uint16_t*>(base) + index;
    if constexpr (DT == BF16 || DT == WIDENED) {
#if defined(__AVX2__)  // compilers convert one half after the other here
        return (v8)_mm256_slli_epi32(_mm256_cvtepu16_epi32(get<__m128i>(p)), 16);
#else
        return (v8)(__builtin_convertvector(get<h8>(p), u8v) << 16);
#endif
    } else {
#if defined(__F16C__)  // compilers convert one lane at a time here
        return (v8)_mm256_cvtph_ps(get<__m128i>(p));
#elif defined(__aarch64__)
        const float16x8_t half = get<float16x8_t>(p);
        const float32x4_t both[2] = {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
        return get<v8>(both);
#else
        v8 v;
        for (int j = 0; j < 8; j++) v[j] = float(get<f16>(p + j));
        return v;
#endif
    }
}

#ifdef WIDE_REGISTERS
// 16 elements of half precision.
template <int DT> static inline v16 as_floats(__m256i halves) {
    if constexpr (DT == F16) return (v16)_mm512_cvtph_ps(halves);
    else return (v16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
#endif

// As many as V has room for.
template <int DT, typename V> static inline V load_all(const char* p) {
    if constexpr (DT == F32) return get<V>(p);
    else if constexpr (sizeof(V) == 32) return (V)load_as<DT>(p, 0);
#ifdef WIDE_REGISTERS
    else return (V)as_floats<DT>(get<__m256i>(p));
#endif
}

// One element of any dtype as float32.
template <int DT> static inline float one_as(const void* base, int64_t index) {
    if constexpr (DT == F32) return static_cast<const float*>(base)[index];
    uint16_t bits = static_cast<const uint16_t*>(base)[index];
    if constexpr (DT == BF16 || DT == WIDENED) {
        uint32_t wide = uint32_t(bits) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    } else {
#if defined(__F16C__)
        return _cvtsh_ss(bits);
#else
        return float(get<f16>(&bits));
#endif
    }
}

// float32 rounded to nearest even and written as any dtype.
template <int DT> static inline void store_one(void* base, int64_t index, float x) {
    if constexpr (DT == F32) {
        static_cast<float*>(base)[index] = x;
    } else if constexpr (DT == BF16) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        uint32_t rounded = x != x ? (bits >> 16) | 0x40 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        static_cast<uint16_t*>(base)[index] = uint16_t(rounded);
    } else {
#if defined(__F16C__)
        static_cast<uint16_t*>(base)[index] = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
        put(static_cast<uint16_t*>(base) + index, f16(x));
#endif
    }
}

// 8 of them at once, to the same bits.
template <int DT> static inline void store_as(void* base, int64_t index, v8 x) {
    if constexpr (DT == F32) {
        store(static_cast<float*>(base) + index, x);
    } else if constexpr (DT == BF16) {
        u8v bits;
        std::memcpy(&bits, &x, 32);
        u8v rounded = x == x ? (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40;
        h8 half = __builtin_convertvector(rounded, h8);
        std::memcpy(static_cast<uint16_t*>(base) + index, &half, 16);
    } else {
#if defined(__F16C__)
        put(static_cast<uint16_t*>(base) + index, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
        for (int j = 0; j < 8; j++) put(static_cast<uint16_t*>(base) + index + j, f16(x[j]));
#endif
    }
}

// To the dtype and back, as torch rounds between two ops.
template <int DT> static inline v8 rounded(v8 x) {
    char narrow[32];
    store_as<DT>(narrow, 0, x);
    return load_as<DT>(narrow, 0);
}

// exp, lane by lane: x = n ln 2 + r, a polynomial in r (Cephes' expf, Moshier 1992), times 2 to the n. Within 2 ulp.
template <typename V> static inline V exp(V x) {
    typedef decltype(x < x) I;  // int32 in as many lanes
    auto all = [](float value) { return value - V{}; };
    const V low = all(-87.33654f), high = all(88.72283f);
    V inside = x < low ? low : (x > high ? high : x);
    V shifted = fma(inside, all(1.44269504f), all(12582912.f));  // 1.5 * 2**23: rounds to the nearest integer
    V n = shifted - all(12582912.f);
    V r = fma(n, all(-0.693359375f), inside);
    r = fma(n, all(2.12194440e-4f), r);
    V p = all(1.9875691500e-4f);
    p = fma(p, r, all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    V r2 = r * r, e = fma(p, r2, r);
    e = e + all(1.f);
    I whole = __builtin_convertvector(n, I), half_n = whole >> 1, rest = whole - half_n;  // 2**128 overflows
    I a = (half_n + 127) << 23, b = (rest + 127) << 23;
    V scale_a, scale_b;
    std::memcpy(&scale_a, &a, sizeof a);
    std::memcpy(&scale_b, &b, sizeof b);
    V y = e * scale_a * scale_b;
    y = x < low ? all(0.f) : y;
    y = x > high ? all(std::numeric_limits<float>::infinity()) : y;
    return x == x ? y : x;
}

// Runs body(begin, end) over [0, count) in `threads` parts. What a part computes must not depend on where it begins.
template <typename Body> static void in_parallel(int64_t count, int64_t threads, const Body& body) {
    threads = std::max<int64_t>(1, std::min(threads, count));
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
            body(count * me / all, count * (me + 1) / all);
        }
        return;
    }
#endif
    body(0, count);
}
