// CUDA's language for the host compiler; included before every kernel file.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "block.h"
#include "half.h"
#include "vector.h"

#define EOSIN_EMULATOR 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __constant__ static const
#define __restrict__ __restrict
#define __align__(n) alignas(n)

// A declaration of shared memory is found again by the address of its tag.
#define SHARED(type, name, dims)                                                                     \
    using name##_type = type dims;                                                                   \
    static char name##_tag;                                                                          \
    name##_type& name = *static_cast<name##_type*>(eosin_emulator::static_shared(&name##_tag, sizeof(name##_type)))
#define DYN_SHARED(name) unsigned char* name = static_cast<unsigned char*>(eosin_emulator::dynamic_shared())

namespace eosin_emulator {
struct ThreadIndex {
    unsigned x, y, z;
};
}  // namespace eosin_emulator

// Blocks are one-dimensional.
#define threadIdx (eosin_emulator::ThreadIndex{eosin_emulator::current->index, 0, 0})
#define blockDim (eosin_emulator::Dim3{eosin_emulator::block.threads, 1, 1})
#define blockIdx (eosin_emulator::block.index)
#define gridDim (eosin_emulator::block.grid)
constexpr int warpSize = 32;

// Where a call stands in the kernel, for messages and to tell calls apart.
#define EOSIN_LINE int line = __builtin_LINE()

inline void __syncthreads(EOSIN_LINE) { eosin_emulator::barrier("__syncthreads", line); }
inline int __syncthreads_count(int p, EOSIN_LINE) { return eosin_emulator::barrier_count(p, line); }
inline int __syncthreads_or(int p, EOSIN_LINE) { return eosin_emulator::barrier_count(p, line) > 0; }
inline int __syncthreads_and(int p, EOSIN_LINE) {
    return eosin_emulator::barrier_count(!p, line) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, EOSIN_LINE) {
    eosin_emulator::meet(mask, "__syncwarp", line, nullptr, nullptr);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Shuffles and votes ----

namespace eosin_emulator {

struct Shuffle {
    uint64_t in, out;
    int source;
};

inline void serve_shuffle(void** given, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        auto* s = static_cast<Shuffle*>(given[__builtin_ctz(rest)]);
        // A value from a lane outside the mask is anything.
        s->out = mask >> s->source & 1 ? static_cast<Shuffle*>(given[s->source])->in : 0x7fffdead7fffdeadull;
    }
}

template <class T>
T shuffle(unsigned mask, T v, int source, const char* what, int line) {
    static_assert(sizeof(T) <= 8);
    Shuffle s{0, 0, source};
    memcpy(&s.in, &v, sizeof(T));
    meet(mask, what, line, &s, serve_shuffle);
    memcpy(&v, &s.out, sizeof(T));
    return v;
}

struct Vote {
    uint32_t in, out;
};

inline void serve_ballot(void** given, uint32_t mask) {
    uint32_t votes = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        votes |= uint32_t(static_cast<Vote*>(given[lane])->in != 0) << lane;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1) static_cast<Vote*>(given[__builtin_ctz(rest)])->out = votes;
}

inline unsigned ballot(unsigned mask, int p, const char* what, int line) {
    Vote v{uint32_t(p != 0), 0};
    meet(mask, what, line, &v, serve_ballot);
    return v.out;
}

}  // namespace eosin_emulator

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, EOSIN_LINE) {
    int lane = int(eosin_emulator::current->lane);
    return eosin_emulator::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), "__shfl_sync", line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, EOSIN_LINE) {
    int lane = int(eosin_emulator::current->lane), source = lane ^ bits;
    if (source > (lane | (width - 1))) source = lane;
    return eosin_emulator::shuffle(mask, v, source, "__shfl_xor_sync", line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EOSIN_LINE) {
    int lane = int(eosin_emulator::current->lane), source = lane + int(by);
    if (source > (lane | (width - 1))) source = lane;
    return eosin_emulator::shuffle(mask, v, source, "__shfl_down_sync", line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EOSIN_LINE) {
    int lane = int(eosin_emulator::current->lane), source = lane - int(by);
    if (source < (lane & ~(width - 1))) source = lane;
    return eosin_emulator::shuffle(mask, v, source, "__shfl_up_sync", line);
}
inline unsigned __ballot_sync(unsigned mask, int p, EOSIN_LINE) {
    return eosin_emulator::ballot(mask, p, "__ballot_sync", line);
}
inline int __any_sync(unsigned mask, int p, EOSIN_LINE) {
    return eosin_emulator::ballot(mask, p, "__any_sync", line) != 0;
}
inline int __all_sync(unsigned mask, int p, EOSIN_LINE) {
    return eosin_emulator::ballot(mask, !p, "__all_sync", line) == 0;
}

// ---- Atomics, on integers: real ones, because launches of several OS threads
// ---- may share memory.

template <class T>
T atomicAdd(T* at, std::common_type_t<T> v) {
    static_assert(std::is_integral_v<T>, "sums of floats must have an order");
    return __atomic_fetch_add(at, v, __ATOMIC_RELAXED);
}
template <class T>
T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> v) {
    __atomic_compare_exchange_n(at, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

// ---- Loads, arithmetic, bits ----

template <class T>
T __ldg(const T* p) {
    return *p;
}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }

template <class To, class From>
To eosin_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float f) { return eosin_bits<int>(f); }
inline unsigned __float_as_uint(float f) { return eosin_bits<unsigned>(f); }
inline float __int_as_float(int i) { return eosin_bits<float>(i); }
inline float __uint_as_float(unsigned i) { return eosin_bits<float>(i); }

template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}

// ---- Export ----

namespace eosin_emulator {
template <class P>
constexpr unsigned size_of_params(void (*)(P)) {
    return sizeof(P);
}
template <auto KERNEL, class P>
void call(const void* params, void (*)(P)) {
    KERNEL(*static_cast<const std::remove_cv_t<P>*>(params));
}
template <auto KERNEL>
void trampoline(const void* params) {
    call<KERNEL>(params, KERNEL);
}
}  // namespace eosin_emulator

#define EOSIN_EXPORT(kernel)                                                                       \
    extern "C" const eosin_emulator::Kernel eosin_emulator_kernel_##kernel;                        \
    extern "C" const eosin_emulator::Kernel eosin_emulator_kernel_##kernel = {                     \
        #kernel, eosin_emulator::trampoline<kernel>, eosin_emulator::size_of_params(kernel)};
