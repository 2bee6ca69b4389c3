// Bugs of memory, beside their sound twins. One block of 64 threads.
#include "common/base.cuh"

struct PlantedParams {
    float* out;
    const float* in;
    unsigned count, padding;
};

template <unsigned TOO_FAR>
__device__ void shift_shared(const PlantedParams& p) {
    SHARED(float, held, [64]);
    held[threadIdx.x + TOO_FAR] = p.in[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = held[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) planted_shared_sound(const PlantedParams p) { shift_shared<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_shared_too_far(const PlantedParams p) { shift_shared<1>(p); }

// The bound is checked with <= by the faulty one.
template <unsigned TOO_FAR>
__device__ void copy_global(const PlantedParams& p) {
    if (threadIdx.x < p.count + TOO_FAR) p.out[threadIdx.x] = p.in[threadIdx.x % p.count];
}

extern "C" __global__ void __launch_bounds__(64) planted_global_sound(const PlantedParams p) { copy_global<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_global_too_far(const PlantedParams p) { copy_global<1>(p); }

// The last element is never written.
extern "C" __global__ void __launch_bounds__(64) planted_output_unwritten(const PlantedParams p) {
    if (threadIdx.x + 1 < p.count) p.out[threadIdx.x] = p.in[threadIdx.x];
}
