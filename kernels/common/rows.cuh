// The threads that share a row of a matrix, a warp or a whole block of 256, and
// how they combine what each of them found.
#pragma once
#include "common/base.cuh"

namespace eosin {

// Eight rows a block.
struct ByWarp {
    static constexpr unsigned STEP = WARP;
    float* parts;
    __device__ unsigned first() const { return threadIdx.x % WARP; }
    __device__ unsigned row() const { return blockIdx.x * (256 / WARP) + threadIdx.x / WARP; }
    __device__ float sum(float v) const { return warp_sum(v); }
    __device__ float max(float v) const { return warp_max(v); }
};

// One row a block. `parts` is shared memory for a float per warp.
struct ByBlock {
    static constexpr unsigned STEP = 256;
    float* parts;
    __device__ unsigned first() const { return threadIdx.x; }
    __device__ unsigned row() const { return blockIdx.x; }
    __device__ float sum(float v) const { return block_sum<256>(v, parts); }
    __device__ float max(float v) const { return block_max<256>(v, parts); }
};

}  // namespace eosin
