// Kernels with a bug each, beside their sound twins: what the emulator is
// tested with. Every launch is one block of 64 threads.
#include "common/base.cuh"

struct PlantedParams {
    float* out;
    const float* in;
    unsigned count, padding;
};

// out[i] = in[63 - i] through shared memory.
template <bool WAITS>
__device__ void reverse(const PlantedParams& p) {
    SHARED(float, held, [64]);
    held[threadIdx.x] = p.in[threadIdx.x];
    if (WAITS) __syncthreads();
    p.out[threadIdx.x] = held[63 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) planted_barrier_sound(const PlantedParams p) { reverse<true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_barrier_removed(const PlantedParams p) { reverse<false>(p); }

// Half of the block reaches another barrier.
extern "C" __global__ void __launch_bounds__(64) planted_barrier_divergent(const PlantedParams p) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    p.out[threadIdx.x] = 0.0f;
}

// Half of the block returns before the others' barrier.
extern "C" __global__ void __launch_bounds__(64) planted_barrier_early_return(const PlantedParams p) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    p.out[threadIdx.x] = 0.0f;
}

// The lanes of a warp meet at different lines.
extern "C" __global__ void __launch_bounds__(64) planted_warp_divergent(const PlantedParams p) {
    float v = p.in[threadIdx.x];
    if (threadIdx.x % 2 == 0)
        v = __shfl_xor_sync(0xffffffffu, v, 2);
    else
        v = __shfl_xor_sync(0xffffffffu, v, 2);
    p.out[threadIdx.x] = v;
}
