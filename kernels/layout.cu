// Movement and conversion of elements.
//
//   cast       y = x as another dtype: floats round to nearest even, a float
//              becomes an integer by truncation that saturates (NaN: 0), a wider
//              integer saturates in u8 and wraps in i32, bool is x != 0. A bool
//              input is read as u8. All pairs of f32, f16, bf16, i32, i64, u8.
//   to_format  y = x in another physical order, zeros in lanes that pad the
//              channels; elements of 1, 2, 4 or 8 bytes.
//   fill       y = a constant; elements of 1, 2, 4 or 8 bytes.
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up.
// Every element is written by one thread, so the bits depend on nothing else.
// Floor: memory bandwidth, each operand and the result once.
#include "common/elementwise.cuh"
#include "common/half.cuh"

namespace eosin {

// Bytes 0 and 1, as bool tensors hold them.
struct Bool {
    unsigned char byte;
};

__device__ inline i64 widened(int v) { return v; }
__device__ inline i64 widened(i64 v) { return v; }
__device__ inline i64 widened(unsigned char v) { return v; }

// An integer as a float that rounds to fewer bits as the integer itself would:
// bits below the first 24 are gathered in the last of them (round to odd).
__device__ inline float odd_float(i64 v) {
    u64 size = v < 0 ? 0 - u64(v) : u64(v);
    int shift = 0;
    while (size >> shift >= 1ull << 24) ++shift;
    u64 kept = size >> shift;
    if (kept << shift != size) kept |= 1;
    const float magnitude = ldexpf(float(kept), shift);
    return v < 0 ? -magnitude : magnitude;
}

template <class U>
struct To;

template <>
struct To<float> {
    __device__ static float of(float v) { return v; }
    __device__ static float of(i64 v) { return float(v); }
};

template <>
struct To<__half> {
    __device__ static __half of(float v) { return __float2half_rn(v); }
    __device__ static __half of(i64 v) { return __float2half_rn(odd_float(v)); }
};

template <>
struct To<__nv_bfloat16> {
    __device__ static __nv_bfloat16 of(float v) { return __float2bfloat16_rn(v); }
    __device__ static __nv_bfloat16 of(i64 v) { return __float2bfloat16_rn(odd_float(v)); }
};

template <>
struct To<int> {
    __device__ static int of(float v) {
        if (v != v) return 0;
        if (v >= 2147483648.0f) return 2147483647;
        if (v <= -2147483648.0f) return -2147483647 - 1;
        return int(v);
    }
    __device__ static int of(i64 v) { return int(unsigned(u64(v))); }
};

template <>
struct To<i64> {
    __device__ static i64 of(float v) {
        constexpr i64 most = 9223372036854775807ll;
        if (v != v) return 0;
        if (v >= 9223372036854775808.0f) return most;
        if (v <= -9223372036854775808.0f) return -most - 1;
        return i64(v);
    }
    __device__ static i64 of(i64 v) { return v; }
};

template <>
struct To<unsigned char> {
    __device__ static unsigned char of(float v) {
        // The first comparison is false for NaN.
        return v > 0.0f ? (unsigned char)(v < 255.0f ? int(v) : 255) : 0;
    }
    __device__ static unsigned char of(i64 v) {
        return (unsigned char)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
};

template <>
struct To<Bool> {
    template <class V>
    __device__ static Bool of(V v) {
        return Bool{(unsigned char)(v != V(0))};
    }
};

template <class A, class U>
__device__ inline void cast_all(const Elementwise& p) {
    map1<A, U>(p, [](A v) { return To<U>::of(widened(v)); });
}

// Kernels take it as __grid_constant__: without, the compiler copies a struct of
// this size to the stack to index it.
struct CopyParams {
    const void* x;
    void* out;
    unsigned lanes, channels;  // of `lanes` neighbours the first `channels` are copied
    Walk walk;                 // over the lanes
};

template <class T>
__device__ inline void copy(const CopyParams& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    const unsigned lanes = p.lanes, channels = p.channels;
    each_element(p.walk.elements, [&, lanes, channels](unsigned i) {
        out[i] = i % lanes < channels ? x[p.walk.place(0, i)] : T(0);
    });
}

struct FillParams {
    void* out;
    u64 bits;
    unsigned elements, padding;
};

template <class T>
__device__ inline void fill(const FillParams& p) {
    T* out = static_cast<T*>(p.out);
    each_element(p.elements, [&](unsigned i) { out[i] = T(p.bits); });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f16_f32(const eosin::Elementwise p) { eosin::cast_all<float, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bf16_f32(const eosin::Elementwise p) { eosin::cast_all<float, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i32_f32(const eosin::Elementwise p) { eosin::cast_all<float, int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i64_f32(const eosin::Elementwise p) { eosin::cast_all<float, eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_u8_f32(const eosin::Elementwise p) { eosin::cast_all<float, unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_f32(const eosin::Elementwise p) { eosin::cast_all<float, eosin::Bool>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f32_f16(const eosin::Elementwise p) { eosin::cast_all<__half, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bf16_f16(const eosin::Elementwise p) { eosin::cast_all<__half, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i32_f16(const eosin::Elementwise p) { eosin::cast_all<__half, int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i64_f16(const eosin::Elementwise p) { eosin::cast_all<__half, eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_u8_f16(const eosin::Elementwise p) { eosin::cast_all<__half, unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_f16(const eosin::Elementwise p) { eosin::cast_all<__half, eosin::Bool>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f32_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f16_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i32_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i64_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_u8_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_bf16(const eosin::Elementwise p) { eosin::cast_all<__nv_bfloat16, eosin::Bool>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f32_i32(const eosin::Elementwise p) { eosin::cast_all<int, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f16_i32(const eosin::Elementwise p) { eosin::cast_all<int, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bf16_i32(const eosin::Elementwise p) { eosin::cast_all<int, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i64_i32(const eosin::Elementwise p) { eosin::cast_all<int, eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_u8_i32(const eosin::Elementwise p) { eosin::cast_all<int, unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_i32(const eosin::Elementwise p) { eosin::cast_all<int, eosin::Bool>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f32_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f16_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bf16_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i32_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_u8_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_i64(const eosin::Elementwise p) { eosin::cast_all<eosin::i64, eosin::Bool>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f32_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_f16_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bf16_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i32_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_i64_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cast_forward_to_bool_u8(const eosin::Elementwise p) { eosin::cast_all<unsigned char, eosin::Bool>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_to_format_forward_b1(const __grid_constant__ eosin::CopyParams p) { eosin::copy<unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_to_format_forward_b2(const __grid_constant__ eosin::CopyParams p) { eosin::copy<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_to_format_forward_b4(const __grid_constant__ eosin::CopyParams p) { eosin::copy<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_to_format_forward_b8(const __grid_constant__ eosin::CopyParams p) { eosin::copy<eosin::u64>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_fill_forward_b1(const eosin::FillParams p) { eosin::fill<unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_fill_forward_b2(const eosin::FillParams p) { eosin::fill<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_fill_forward_b4(const eosin::FillParams p) { eosin::fill<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_fill_forward_b8(const eosin::FillParams p) { eosin::fill<eosin::u64>(p); }
