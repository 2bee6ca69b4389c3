// What may follow a product or convolution in the same pass.
#pragma once
#include "common/base.cuh"

namespace eosin {

// src/ops/linear/cuda.rs has its twin.
struct Epilogue {
    unsigned activation;  // 0 none, 1 leaky ReLU, 2 GELU, 3 SiLU, 4 tanh, 5 sigmoid
    float slope;          // of the leaky ReLU

    __device__ float operator()(float v) const {
        switch (activation) {
            case 1: return v > 0.0f ? v : v * slope;
            // By erfc, because 1 + erf(x) cancels for negative x.
            case 2: return v * 0.5f * erfcf(v * -0.70710678118654752f);
            case 3: return v / (1.0f + expf(-v));
            case 4: return tanhf(v);
            case 5: return 1.0f / (1.0f + expf(-v));
            default: return v;
        }
    }

    // The derivative at v.
    __device__ float derivative(float v) const {
        switch (activation) {
            case 1: return v > 0.0f ? 1.0f : slope;
            // With 1 / sqrt(2 pi).
            case 2: return 0.5f * erfcf(v * -0.70710678118654752f) + v * (0.39894228040143268f * expf(v * v * -0.5f));
            case 3: {
                const float s = 1.0f / (1.0f + expf(-v));
                return s * (1.0f + v * (1.0f - s));
            }
            case 4: {
                const float t = tanhf(v);
                return 1.0f - t * t;
            }
            case 5: {
                const float s = 1.0f / (1.0f + expf(-v));
                return s * (1.0f - s);
            }
            default: return 1.0f;
        }
    }
};

// A batch norm in evaluation, as scale and shift, and its ReLU.
__device__ inline float activated(float x, float scale, float shift) {
    const float v = fmaf(x, scale, shift);
    return v > 0.0f ? v : v * 0.0f;
}

}  // namespace eosin
