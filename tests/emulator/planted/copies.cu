// Bugs of asynchronous copies, beside sound twins. Blocks of 64 threads.
#include "common/base.cuh"
#include "common/ptx.cuh"

struct PlantedParams {
    float* out;
    const float* in;
    unsigned count, padding;
};

// out = in over `count` tiles of 256 floats, through two buffers in turn: tile
// i + 1 is on its way while tile i is used.
template <int IN_FLIGHT, bool WAITS_FOR_READERS>
__device__ void pipeline(const PlantedParams& p) {
    SHARED(float4, held, [2][64]);
    auto fetch = [&](unsigned tile) {
        if (tile < p.count) ptx::cp_async<16>(&held[tile % 2][threadIdx.x], p.in + tile * 256 + threadIdx.x * 4);
        ptx::cp_async_commit();
    };
    fetch(0);
    for (unsigned tile = 0; tile < p.count; ++tile) {
        fetch(tile + 1);
        ptx::cp_async_wait<IN_FLIGHT>();
        __syncthreads();
        // Another thread's piece, so that the barriers matter.
        reinterpret_cast<float4*>(p.out)[tile * 64 + (threadIdx.x ^ 33)] = held[tile % 2][threadIdx.x ^ 33];
        if (WAITS_FOR_READERS) __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(64) planted_pipeline_sound(const PlantedParams p) { pipeline<1, true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_pipeline_wait_missing(const PlantedParams p) { pipeline<2, true>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_pipeline_barrier_removed(const PlantedParams p) { pipeline<1, false>(p); }

template <int OFF>
__device__ void copy_to(unsigned char* held, const PlantedParams& p) {
    ptx::cp_async<16>(held + threadIdx.x * 16 + OFF, p.in + threadIdx.x * 4);
    ptx::cp_async_wait_all();
    __syncthreads();
    p.out[threadIdx.x] = reinterpret_cast<const float*>(held)[threadIdx.x];
}

// `held` of exactly the bytes that one copy per thread fills.
extern "C" __global__ void __launch_bounds__(64) planted_copy_sound(const PlantedParams p) {
    SHARED(float4, held, [64]);
    copy_to<0>(reinterpret_cast<unsigned char*>(held), p);
}
extern "C" __global__ void __launch_bounds__(64) planted_copy_misaligned(const PlantedParams p) {
    SHARED(float4, held, [65]);
    copy_to<4>(reinterpret_cast<unsigned char*>(held), p);
}
extern "C" __global__ void __launch_bounds__(64) planted_copy_too_far(const PlantedParams p) {
    SHARED(float4, held, [64]);
    copy_to<16>(reinterpret_cast<unsigned char*>(held), p);
}

// An array of floats need not be aligned to 16 bytes, so no copy of 16 may rely on it.
extern "C" __global__ void __launch_bounds__(64) planted_copy_to_floats(const PlantedParams p) {
    SHARED(float, held, [256]);
    copy_to<0>(reinterpret_cast<unsigned char*>(held), p);
}
