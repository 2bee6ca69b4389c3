// Functions of one element in f32, those that are activations in bf16 and f16
// too: y = f(x), and for gradients g f'(x) and g f''(x), computed in f32. src/ops/pointwise/scalar.rs has the formulas for the CPU.
//
// Parameters come by value: pow's coefficient and exponent of the order asked
// for, clamp's limits, leaky_relu's slope.
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up.
// Every element is written by one thread, so the bits depend on nothing else.
// Floor: memory bandwidth, each operand and the result once.
#include "common/elementwise.cuh"
#include "common/half.cuh"

namespace eosin {

__device__ inline float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

// By erfc, because 1 + erf(x) cancels for negative x.
__device__ inline float normal_cdf(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }

__device__ inline float normal_pdf(float x) {
    return 0.39894228040143268f * expf(x * x * -0.5f);  // 1 / sqrt(2 pi)
}

// at(x, a, b) of each: the derivative of that order with parameters a and b.
template <int order>
struct Exp {
    __device__ static float at(float x, float, float) { return expf(x); }
};

template <int order>
struct Log {
    __device__ static float at(float x, float, float) {
        if constexpr (order == 0) return logf(x);
        if constexpr (order == 1) return 1.0f / x;
        return -(1.0f / (x * x));
    }
};

template <int order>
struct Sqrt {
    __device__ static float at(float x, float, float) {
        const float root = sqrtf(x);
        if constexpr (order == 0) return root;
        if constexpr (order == 1) return 0.5f / root;
        return -0.25f / (x * root);
    }
};

template <int order>
struct Pow {
    __device__ static float at(float x, float coefficient, float exponent) {
        if constexpr (order == 0) return powf(x, exponent);
        // Without this x^1 would give 0 * infinity at x = 0.
        if (order == 2 && coefficient == 0.0f) return 0.0f;
        return coefficient * powf(x, exponent);
    }
};

template <int order>
struct Abs {
    __device__ static float at(float x, float, float) {
        if constexpr (order == 0) return fabsf(x);
        if constexpr (order == 1) return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
        return 0.0f;
    }
};

template <int order>
struct Clamp {
    __device__ static float at(float x, float low, float high) {
        // Written out rather than with min and max, which would drop a NaN.
        if constexpr (order == 0) return x < low ? low : x > high ? high : x;
        if constexpr (order == 1) return x >= low && x <= high ? 1.0f : 0.0f;
        return 0.0f;
    }
};

template <int order>
struct LeakyRelu {
    __device__ static float at(float x, float slope, float) {
        if constexpr (order == 0) return x > 0.0f ? x : x * slope;
        if constexpr (order == 1) return x > 0.0f ? 1.0f : slope;
        return 0.0f;
    }
};

template <int order>
struct Gelu {
    __device__ static float at(float x, float, float) {
        if constexpr (order == 0) return x * normal_cdf(x);
        if constexpr (order == 1) return normal_cdf(x) + x * normal_pdf(x);
        return normal_pdf(x) * (2.0f - x * x);
    }
};

template <int order>
struct Silu {
    __device__ static float at(float x, float, float) {
        const float s = logistic(x);
        if constexpr (order == 0) return x * s;
        if constexpr (order == 1) return s * (1.0f + x * (1.0f - s));
        return s * (1.0f - s) * (2.0f + x * (1.0f - 2.0f * s));
    }
};

template <int order>
struct Tanh {
    __device__ static float at(float x, float, float) {
        const float t = tanhf(x);
        if constexpr (order == 0) return t;
        if constexpr (order == 1) return 1.0f - t * t;
        return -2.0f * t * (1.0f - t * t);
    }
};

template <int order>
struct Sigmoid {
    __device__ static float at(float x, float, float) {
        const float s = logistic(x);
        if constexpr (order == 0) return s;
        if constexpr (order == 1) return s * (1.0f - s);
        return s * (1.0f - s) * (1.0f - 2.0f * s);
    }
};

template <template <int> class F, class T = float>
__device__ inline void value(const Elementwise& p) {
    const float a = p.numbers[0], b = p.numbers[1];
    map1<T, T>(p, [a, b](T x) { return narrowed<T>(F<0>::at(widened(x), a, b)); });
}

// g times the derivative; the first operand is x.
template <template <int> class F, int order, class T = float>
__device__ inline void derivative(const Elementwise& p) {
    const float a = p.numbers[0], b = p.numbers[1];
    map2<T, T, T>(p, [a, b](T x, T g) {
        return narrowed<T>(widened(g) * F<order>::at(widened(x), a, b));
    });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_exp_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Exp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_exp_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Exp, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_exp_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Exp, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_log_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Log>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_log_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Log, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_log_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Log, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sqrt_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Sqrt>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sqrt_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Sqrt, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sqrt_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Sqrt, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_pow_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Pow>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_pow_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Pow, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_pow_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Pow, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_abs_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Abs>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_abs_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Abs, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_abs_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Abs, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_clamp_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Clamp>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_clamp_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Clamp, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_clamp_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Clamp, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::LeakyRelu>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Gelu>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Silu>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Tanh>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 2>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_forward_f32(const eosin::Elementwise p) { eosin::value<eosin::Sigmoid>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 1>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_second_f32(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 2>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_forward_bf16(const eosin::Elementwise p) { eosin::value<eosin::LeakyRelu, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 1, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_second_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 2, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_forward_bf16(const eosin::Elementwise p) { eosin::value<eosin::Gelu, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 1, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_second_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 2, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_forward_bf16(const eosin::Elementwise p) { eosin::value<eosin::Silu, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 1, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_second_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 2, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_forward_bf16(const eosin::Elementwise p) { eosin::value<eosin::Tanh, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 1, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_second_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 2, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_forward_bf16(const eosin::Elementwise p) { eosin::value<eosin::Sigmoid, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 1, __nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_second_bf16(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 2, __nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_forward_f16(const eosin::Elementwise p) { eosin::value<eosin::LeakyRelu, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_f16(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 1, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_leaky_relu_backward_second_f16(const eosin::Elementwise p) { eosin::derivative<eosin::LeakyRelu, 2, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_forward_f16(const eosin::Elementwise p) { eosin::value<eosin::Gelu, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 1, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gelu_backward_second_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Gelu, 2, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_forward_f16(const eosin::Elementwise p) { eosin::value<eosin::Silu, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 1, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_silu_backward_second_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Silu, 2, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_forward_f16(const eosin::Elementwise p) { eosin::value<eosin::Tanh, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 1, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_tanh_backward_second_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Tanh, 2, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_forward_f16(const eosin::Elementwise p) { eosin::value<eosin::Sigmoid, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 1, __half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sigmoid_backward_second_f16(const eosin::Elementwise p) { eosin::derivative<eosin::Sigmoid, 2, __half>(p); }
