// Functions of one number, and powers, element by element: each in float64 by the C library's own function for one number, then rounded.
//
// There is one program for every element, so its bits follow its value alone: not its place, nor what is left of a vector, nor a stride.
#include "common.h"

enum { F64 = 3 };  // beside common.h's
enum What : int64_t { EXP, EXP2, EXPM1, LOG, LOG2, LOG10, LOG1P, SIN, COS, TAN, SINH, COSH, TANH, ASIN, ACOS, ATAN, ASINH, ACOSH, ATANH, ERF, ERFC, RSQRT, SQRT, ELU, MISH, LOG_SIGMOID, POW };

template <int DT> static inline double get_one(const void* p, int64_t i) {
    if constexpr (DT == F64) return static_cast<const double*>(p)[i];
    else return double(one_as<DT>(p, i));
}

template <int DT> static inline void put_one(void* p, int64_t i, double x) {
    if constexpr (DT == F64) static_cast<double*>(p)[i] = x;
    else store_one<DT>(p, i, float(x));
}

static constexpr int64_t THREAD_WORK = int64_t(1) << 10;  // elements that pay for waking a thread

// x[n], dense -> out[n]. a, b, c: what a function needs besides; y[n]: exponents, or null for the one exponent a.
template <int DT> static void all(int64_t what, char* out, const char* x, const char* y, int64_t n, double a, double b, double c, int64_t threads) {
    in_parallel(n, std::min(threads, 1 + n / THREAD_WORK), [&](int64_t begin, int64_t end) {
        auto each = [&](auto f) {
            for (int64_t i = begin; i < end; i++) put_one<DT>(out, i, f(get_one<DT>(x, i)));
        };
        switch (what) {
            case EXP: each([](double v) { return std::exp(v); }); break;
            case EXP2: each([](double v) { return std::exp2(v); }); break;
            case EXPM1: each([](double v) { return std::expm1(v); }); break;
            case LOG: each([](double v) { return std::log(v); }); break;
            case LOG2: each([](double v) { return std::log2(v); }); break;
            case LOG10: each([](double v) { return std::log10(v); }); break;
            case LOG1P: each([](double v) { return std::log1p(v); }); break;
            case SIN: each([](double v) { return std::sin(v); }); break;
            case COS: each([](double v) { return std::cos(v); }); break;
            case TAN: each([](double v) { return std::tan(v); }); break;
            case SINH: each([](double v) { return std::sinh(v); }); break;
            case COSH: each([](double v) { return std::cosh(v); }); break;
            case TANH: each([](double v) { return std::tanh(v); }); break;
            case ASIN: each([](double v) { return std::asin(v); }); break;
            case ACOS: each([](double v) { return std::acos(v); }); break;
            case ATAN: each([](double v) { return std::atan(v); }); break;
            case ASINH: each([](double v) { return std::asinh(v); }); break;
            case ACOSH: each([](double v) { return std::acosh(v); }); break;
            case ATANH: each([](double v) { return std::atanh(v); }); break;
            case ERF: each([](double v) { return std::erf(v); }); break;
            case ERFC: each([](double v) { return std::erfc(v); }); break;
            case RSQRT: each([](double v) { return 1.0 / std::sqrt(v); }); break;
            case SQRT: each([](double v) { return std::sqrt(v); }); break;
            case ELU: each([&](double v) { return v > 0 ? v * b : std::expm1(v * c) * (a * b); }); break;
            case MISH: each([](double v) { return v * std::tanh(v > 20 ? v : std::log1p(std::exp(v))); }); break;
            case LOG_SIGMOID: each([](double v) { return std::min(v, 0.0) - std::log1p(std::exp(-std::fabs(v))); }); break;
            case POW:
                for (int64_t i = begin; i < end; i++) put_one<DT>(out, i, std::pow(get_one<DT>(x, i), y ? get_one<DT>(y, i) : a));
                break;
        }
    });
}

extern "C" void detcheck_elementwise(int64_t what, int64_t dtype, char* out, const char* x, const char* y, int64_t n, double a, double b, double c, int64_t threads) {
    if (dtype == F32) all<F32>(what, out, x, y, n, a, b, c, threads);
    if (dtype == BF16) all<BF16>(what, out, x, y, n, a, b, c, threads);
    if (dtype == F16) all<F16>(what, out, x, y, n, a, b, c, threads);
    if (dtype == F64) all<F64>(what, out, x, y, n, a, b, c, threads);
}
