// What every kernel file begins with: the language on either compiler, and what
// the host shares with kernels.
#pragma once

#ifdef EOSIN_EMULATOR
// The emulator's header, included before everything, provides the language, the
// half types and SHARED and DYN_SHARED.
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// Shared memory goes through these two, because the emulator gives each block
// poisoned memory with exact bounds.
#define SHARED(type, name, dims) __shared__ type name dims
#define DYN_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace eosin {

using i64 = long long;
using u64 = unsigned long long;

// An index outside its bound, reported by the host when it next waits.
struct Fault {
    i64 index, bound;
    unsigned kernel, padding;
};

// A random stream; src/random.rs has its twin.
struct Random {
    u64 key, position;
};

// The start of each stream's control block; src/device/cuda/mod.rs has its twin.
struct Control {
    Fault fault;
    Random random;  // what a replay adds to the streams of its capture
    // then the counters of arrival.cuh
};

// Keeps the first fault that arrives. `kernel` is the kernel's place in the
// table plus 1, as the host gives it.
__device__ inline void report(Control* control, unsigned kernel, i64 index, i64 bound) {
    if (atomicCAS(&control->fault.kernel, 0u, kernel) == 0u) {
        control->fault.index = index;
        control->fault.bound = bound;
    }
}

constexpr unsigned WARP = 32;

// The sum over a warp, the same bits in every lane.
__device__ inline float warp_sum(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ inline float warp_max(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// The sum over a block of THREADS, the same bits in every thread. `parts` is
// shared memory for a float per warp; it may be used again after the call.
template <int THREADS>
__device__ inline float block_sum(float v, float* parts) {
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = v;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / int(WARP); ++i) total += parts[i];
    __syncthreads();
    return total;
}

template <int THREADS>
__device__ inline float block_max(float v, float* parts) {
    v = warp_max(v);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = v;
    __syncthreads();
    float most = parts[0];
#pragma unroll
    for (int i = 1; i < THREADS / int(WARP); ++i) most = fmaxf(most, parts[i]);
    __syncthreads();
    return most;
}

}  // namespace eosin
