// Bugs of barriers and warps, beside sound twins. Blocks of 64 threads.
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

// out[i] = the sum over `count` rounds of in[i] and its mirror image. Without the
// second barrier a fast warp overwrites what a slow one has yet to read, which
// threads that take turns never show.
template <bool WAITS>
__device__ void rounds(const PlantedParams& p) {
    SHARED(float, held, [64]);
    float sum = 0.0f;
    for (unsigned round = 0; round < p.count; ++round) {
        held[threadIdx.x] = p.in[threadIdx.x] + float(round);
        __syncthreads();
        sum += held[63 - threadIdx.x];
        if (WAITS) __syncthreads();
    }
    p.out[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(64) planted_rounds_sound(const PlantedParams p) { rounds<true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_rounds_barrier_removed(const PlantedParams p) { rounds<false>(p); }

// The same within a warp, whose lanes do not run in step.
template <bool WAITS>
__device__ void reverse_in_warp(const PlantedParams& p) {
    SHARED(float, held, [64]);
    held[threadIdx.x] = p.in[threadIdx.x];
    if (WAITS) __syncwarp();
    p.out[threadIdx.x] = held[threadIdx.x ^ 31];
}

extern "C" __global__ void __launch_bounds__(64) planted_syncwarp_sound(const PlantedParams p) { reverse_in_warp<true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_syncwarp_removed(const PlantedParams p) { reverse_in_warp<false>(p); }

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

// Half of each warp waits for the block, the other half for the warp.
extern "C" __global__ void __launch_bounds__(64) planted_deadlock(const PlantedParams p) {
    if (threadIdx.x % 32 < 16) __syncthreads();
    __syncwarp();
    if (threadIdx.x % 32 >= 16) __syncthreads();
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

// Some lanes say that all take part, others that they do not.
extern "C" __global__ void __launch_bounds__(64) planted_mask_mismatch(const PlantedParams p) {
    unsigned mask = threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u;
    p.out[threadIdx.x] = __shfl_sync(mask, p.in[threadIdx.x], 16);
}

// A lane calls with a mask that it is not in.
extern "C" __global__ void __launch_bounds__(64) planted_mask_without_caller(const PlantedParams p) {
    p.out[threadIdx.x] = __shfl_sync(0x0000ffffu, p.in[threadIdx.x], 0);
}

// Lanes that have returned are waited for.
extern "C" __global__ void __launch_bounds__(64) planted_mask_of_returned(const PlantedParams p) {
    if (threadIdx.x % 32 >= 16) return;
    p.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, p.in[threadIdx.x], 1);
}

// A fault that the kernel itself finds.
extern "C" __global__ void __launch_bounds__(64) planted_trap(const PlantedParams p) {
    if (threadIdx.x == 7) __trap();
    p.out[threadIdx.x] = 0.0f;
}
