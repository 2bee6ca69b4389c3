// Bugs of memory, beside sound twins. Blocks of 64 threads.
#include "common/base.cuh"

struct PlantedParams {
    float* out;
    const float* in;
    unsigned count, padding;
};

// An index of a declared array.
template <unsigned TOO_FAR>
__device__ void shift_shared(const PlantedParams& p) {
    SHARED(float, held, [64]);
    held[threadIdx.x + TOO_FAR] = p.in[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = held[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) planted_shared_sound(const PlantedParams p) { shift_shared<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_shared_too_far(const PlantedParams p) { shift_shared<1>(p); }

// The same through a pointer, whose bounds the compiler does not know.
template <int OFF>
__device__ void shift_pointer(float* held, const PlantedParams& p) {
    held[int(threadIdx.x) + OFF] = p.in[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = held[threadIdx.x];
}

template <int OFF>
__device__ void shift_declared(const PlantedParams& p) {
    SHARED(float, held, [64]);
    shift_pointer<OFF>(held, p);
}

template <int OFF>
__device__ void shift_dynamic(const PlantedParams& p) {
    DYN_SHARED(bytes);
    shift_pointer<OFF>(reinterpret_cast<float*>(bytes), p);
}

extern "C" __global__ void __launch_bounds__(64) planted_pointer_sound(const PlantedParams p) { shift_declared<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_pointer_too_far(const PlantedParams p) { shift_declared<1>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_pointer_before(const PlantedParams p) { shift_declared<-1>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_dynamic_sound(const PlantedParams p) { shift_dynamic<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_dynamic_too_far(const PlantedParams p) { shift_dynamic<1>(p); }

// The bound is checked with <= by the faulty one.
template <unsigned TOO_FAR>
__device__ void copy_global(const PlantedParams& p) {
    if (threadIdx.x < p.count + TOO_FAR) p.out[threadIdx.x] = p.in[threadIdx.x % p.count];
}

extern "C" __global__ void __launch_bounds__(64) planted_global_sound(const PlantedParams p) { copy_global<0>(p); }
extern "C" __global__ void __launch_bounds__(64) planted_global_too_far(const PlantedParams p) { copy_global<1>(p); }

// Reads one element more than there is into each output.
extern "C" __global__ void __launch_bounds__(64) planted_global_read_too_far(const PlantedParams p) {
    if (threadIdx.x < p.count) p.out[threadIdx.x] = p.in[threadIdx.x] + p.in[threadIdx.x + 1];
}

// The last element is never written.
extern "C" __global__ void __launch_bounds__(64) planted_output_unwritten(const PlantedParams p) {
    if (threadIdx.x + 1 < p.count) p.out[threadIdx.x] = p.in[threadIdx.x];
}

// Shared memory that nothing wrote.
extern "C" __global__ void __launch_bounds__(64) planted_shared_unwritten(const PlantedParams p) {
    SHARED(float, held, [64]);
    if (threadIdx.x != 5) held[threadIdx.x] = p.in[threadIdx.x];
    __syncthreads();
    p.out[threadIdx.x] = held[threadIdx.x];
}

// More than the hardware has.
extern "C" __global__ void __launch_bounds__(64) planted_static_too_large(const PlantedParams p) {
    SHARED(float, fits, [12000]);
    SHARED(float, does_not, [400]);
    fits[threadIdx.x] = does_not[threadIdx.x] = p.in[threadIdx.x];
    p.out[threadIdx.x] = fits[threadIdx.x];
}

// Four floats at once from an address that is aligned to one.
extern "C" __global__ void __launch_bounds__(64) planted_misaligned(const PlantedParams p) {
    float4 v = *reinterpret_cast<const float4*>(p.in + 1);
    p.out[threadIdx.x] = v.x + v.w;
}

extern "C" __global__ void __launch_bounds__(64) planted_null(const PlantedParams p) {
    const float* nothing = p.count == 0 ? p.in : nullptr;
    p.out[threadIdx.x] = nothing[9];
}

// An address that is nobody's.
extern "C" __global__ void __launch_bounds__(64) planted_wild(const PlantedParams p) {
    __syncthreads();
    p.out[threadIdx.x] = p.in[-(1ll << 38)];
}

extern "C" __global__ void __launch_bounds__(64) planted_large_frame(const PlantedParams p) {
    volatile float local[40000];
    for (unsigned i = 0; i < 40000; ++i) local[i] = p.in[i % 64];
    p.out[threadIdx.x] = local[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) planted_shift_too_wide(const PlantedParams p) {
    p.out[threadIdx.x] = float(1u << (p.count - 32 + threadIdx.x));
}
