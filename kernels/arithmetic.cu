// Broadcasting arithmetic, comparison and selection.
//
//   add, sub, mul, div   y = a op b, f32; add and mul bf16 and f16 too, in f32
//   maximum, minimum     y = the larger or smaller, NaN if either is, f32
//   affine               y = scale x + shift, f32, bf16, f16; scale and shift by value
//   compare              y = a op b as bytes 0 and 1; f32, i32, i64, u8
//   select               y = mask ? a : b; elements of 1, 2, 4 or 8 bytes
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up.
// Every element is written by one thread, so the bits depend on nothing else.
// Floor: memory bandwidth, each operand and the result once.
#include "common/elementwise.cuh"
#include "common/half.cuh"

namespace eosin {

// As in `Comparison` of src/ops/arithmetic/mod.rs.
enum Order : unsigned { EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL };

template <class T>
__device__ inline void compare(const Elementwise& p) {
    const unsigned order = p.choice;
    map2<T, T, unsigned char>(p, [order](T a, T b) {
        bool holds;
        switch (order) {
            case EQUAL: holds = a == b; break;
            case LESS: holds = a < b; break;
            case LESS_EQUAL: holds = a <= b; break;
            case GREATER: holds = a > b; break;
            default: holds = a >= b;
        }
        return (unsigned char)(holds ? 1 : 0);
    });
}

// The mask is the last operand, because the result lies as a or b does.
template <class T>
__device__ inline void select(const Elementwise& p) {
    map3<T, T, unsigned char, T>(p, [](T a, T b, unsigned char mask) { return mask ? a : b; });
}

template <class T = float, class F>
__device__ inline void binary(const Elementwise& p, F f) {
    map2<T, T, T>(p, [&](T a, T b) { return narrowed<T>(f(widened(a), widened(b))); });
}

template <class T>
__device__ inline void affine(const Elementwise& p) {
    const float scale = p.numbers[0], shift = p.numbers[1];
    map1<T, T>(p, [scale, shift](T x) { return narrowed<T>(scale * widened(x) + shift); });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_add_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a + b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_sub_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a - b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_mul_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a * b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_div_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a / b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_maximum_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a > b || a != a ? a : b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_minimum_forward_f32(const eosin::Elementwise p) { eosin::binary(p, [](float a, float b) { return a < b || a != a ? a : b; }); }

extern "C" __global__ void __launch_bounds__(256) eosin_add_forward_bf16(const eosin::Elementwise p) { eosin::binary<__nv_bfloat16>(p, [](float a, float b) { return a + b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_add_forward_f16(const eosin::Elementwise p) { eosin::binary<__half>(p, [](float a, float b) { return a + b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_mul_forward_bf16(const eosin::Elementwise p) { eosin::binary<__nv_bfloat16>(p, [](float a, float b) { return a * b; }); }
extern "C" __global__ void __launch_bounds__(256) eosin_mul_forward_f16(const eosin::Elementwise p) { eosin::binary<__half>(p, [](float a, float b) { return a * b; }); }

extern "C" __global__ void __launch_bounds__(256) eosin_affine_forward_f32(const eosin::Elementwise p) { eosin::affine<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_affine_forward_bf16(const eosin::Elementwise p) { eosin::affine<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_affine_forward_f16(const eosin::Elementwise p) { eosin::affine<__half>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_compare_forward_f32(const eosin::Elementwise p) { eosin::compare<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_compare_forward_i32(const eosin::Elementwise p) { eosin::compare<int>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_compare_forward_i64(const eosin::Elementwise p) { eosin::compare<eosin::i64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_compare_forward_u8(const eosin::Elementwise p) { eosin::compare<unsigned char>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_select_forward_b1(const eosin::Elementwise p) { eosin::select<unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_select_forward_b2(const eosin::Elementwise p) { eosin::select<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_select_forward_b4(const eosin::Elementwise p) { eosin::select<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_select_forward_b8(const eosin::Elementwise p) { eosin::select<eosin::u64>(p); }
