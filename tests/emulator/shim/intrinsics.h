// Functions of CUDA's device library that the host's lacks. Where hardware
// approximates, these are exact: results are compared with a tolerance.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// ---- bits

namespace emulator {

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace emulator

inline int __float_as_int(float a) { return emulator::bit_cast<int>(a); }
inline unsigned __float_as_uint(float a) { return emulator::bit_cast<unsigned>(a); }
inline float __int_as_float(int a) { return emulator::bit_cast<float>(a); }
inline float __uint_as_float(unsigned a) { return emulator::bit_cast<float>(a); }
inline long long __double_as_longlong(double a) { return emulator::bit_cast<long long>(a); }
inline double __longlong_as_double(long long a) { return emulator::bit_cast<double>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
inline int __clzll(long long a) {
    return a == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(a));
}
inline unsigned __brev(unsigned a) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) {
        reversed |= (a >> bit & 1) << (31 - bit);
    }
    return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}
// Each of the selector's four nibbles picks one of the eight bytes; its top bit
// repeats that byte's sign instead.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned pick = selector >> 4 * i & 15;
        unsigned byte = both >> 8 * (pick & 7) & 0xff;
        if ((pick & 8) != 0) {
            byte = (byte & 0x80) != 0 ? 0xff : 0;
        }
        result |= byte << 8 * i;
    }
    return result;
}

// ---- integers

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b) {
    return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// The smaller one, in the type that C++ gives to `a + b`; of a number and a NaN,
// the number.
template <class A, class B>
constexpr auto min(A a, B b) -> std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                                 decltype(a + b)> {
    using T = decltype(a + b);
    if constexpr (std::is_floating_point_v<T>) {
        return std::fmin(static_cast<T>(a), static_cast<T>(b));
    } else {
        return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
    }
}

template <class A, class B>
constexpr auto max(A a, B b) -> std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                                 decltype(a + b)> {
    using T = decltype(a + b);
    if constexpr (std::is_floating_point_v<T>) {
        return std::fmax(static_cast<T>(a), static_cast<T>(b));
    } else {
        return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
    }
}

// ---- floats

inline float __expf(float a) { return std::exp(a); }
inline float __exp10f(float a) { return std::pow(10.0f, a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline float __log10f(float a) { return std::log10(a); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __sinf(float a) { return std::sin(a); }
inline float __cosf(float a) { return std::cos(a); }
inline float __tanf(float a) { return std::tan(a); }
inline float __tanhf(float a) { return std::tanh(a); }
inline void __sincosf(float a, float* sine, float* cosine) {
    *sine = std::sin(a);
    *cosine = std::cos(a);
}
inline float __saturatef(float a) { return std::fmin(std::fmax(a, 0.0f), 1.0f); }  // NaN: 0
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frsqrt_rn(float a) { return static_cast<float>(1.0 / std::sqrt(double(a))); }
inline float rsqrtf(float a) { return static_cast<float>(1.0 / std::sqrt(double(a))); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float normcdff(float a) {
    return static_cast<float>(0.5 * std::erfc(-double(a) * 0.70710678118654752));
}

// ---- conversions: out of range, they stop at the nearest end; NaN becomes 0

namespace emulator {

template <class To>
inline To saturated(float rounded) {
    if (rounded != rounded) {
        return 0;
    }
    // As floats the ends are powers of two or 0, so the comparisons are exact.
    if (rounded < static_cast<float>(std::numeric_limits<To>::min())) {
        return std::numeric_limits<To>::min();
    }
    if (rounded >= static_cast<float>(std::numeric_limits<To>::max())) {
        return std::numeric_limits<To>::max();
    }
    return static_cast<To>(rounded);
}

}  // namespace emulator

inline int __float2int_rn(float a) { return emulator::saturated<int>(std::nearbyint(a)); }
inline int __float2int_rz(float a) { return emulator::saturated<int>(std::trunc(a)); }
inline int __float2int_rd(float a) { return emulator::saturated<int>(std::floor(a)); }
inline int __float2int_ru(float a) { return emulator::saturated<int>(std::ceil(a)); }
inline unsigned __float2uint_rn(float a) { return emulator::saturated<unsigned>(std::nearbyint(a)); }
inline unsigned __float2uint_rz(float a) { return emulator::saturated<unsigned>(std::trunc(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }

// ---- loads and stores that on a GPU choose a cache

template <class T>
inline T __ldg(const T* from) {
    return *from;
}
template <class T>
inline T __ldca(const T* from) {
    return *from;
}
template <class T>
inline T __ldcg(const T* from) {
    return *from;
}
template <class T>
inline T __ldcs(const T* from) {
    return *from;
}
template <class T>
inline void __stcg(T* to, T value) {
    *to = value;
}
template <class T>
inline void __stcs(T* to, T value) {
    *to = value;
}

// ---- atomics: on integers, since those of floats depend on the order
//
// A block runs on one OS thread, but launches on several streams may meet. They
// order memory more than CUDA's relaxed atomics do, so that ThreadSanitizer takes
// "fence, then atomic" for the publication that it is.

namespace emulator {

template <class T, class Change>
inline T read_modify_write(T* at, Change change) {
    static_assert(std::is_integral_v<T>, "only integer atomics are deterministic");
    T before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &before, change(before), true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
    }
    return before;
}

// Keeps an argument from taking part in the deduction of T, as CUDA's overloads do.
template <class T>
struct Given {
    using Type = T;
};
template <class T>
using As = typename Given<T>::Type;

}  // namespace emulator

template <class T>
inline T atomicAdd(T* at, emulator::As<T> value) {
    return __atomic_fetch_add(at, value, __ATOMIC_ACQ_REL);
}
template <class T>
inline T atomicSub(T* at, emulator::As<T> value) {
    return __atomic_fetch_sub(at, value, __ATOMIC_ACQ_REL);
}
template <class T>
inline T atomicAnd(T* at, emulator::As<T> value) {
    return __atomic_fetch_and(at, value, __ATOMIC_ACQ_REL);
}
template <class T>
inline T atomicOr(T* at, emulator::As<T> value) {
    return __atomic_fetch_or(at, value, __ATOMIC_ACQ_REL);
}
template <class T>
inline T atomicXor(T* at, emulator::As<T> value) {
    return __atomic_fetch_xor(at, value, __ATOMIC_ACQ_REL);
}
template <class T>
inline T atomicMin(T* at, emulator::As<T> value) {
    return emulator::read_modify_write(at, [=](T old) { return value < old ? value : old; });
}
template <class T>
inline T atomicMax(T* at, emulator::As<T> value) {
    return emulator::read_modify_write(at, [=](T old) { return old < value ? value : old; });
}
template <class T>
inline T atomicExch(T* at, emulator::As<T> value) {
    return emulator::read_modify_write(at, [=](T) { return value; });
}
template <class T>
inline T atomicCAS(T* at, emulator::As<T> expected, emulator::As<T> value) {
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
    return emulator::read_modify_write(at, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* at, unsigned last) {
    return emulator::read_modify_write(
        at, [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}

// Threads of a launch share an OS thread, so what one wrote is there for all.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
