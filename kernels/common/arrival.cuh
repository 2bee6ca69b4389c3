// The last step of a sum over blocks in the launch that made its parts.
#pragma once
#include "common/base.cuh"

namespace eosin {

// Counters of each stream's control block; launches of a stream follow each other,
// so that all of them may use the same ones. src/device/cuda/mod.rs has its twin.
constexpr unsigned ARRIVALS = 4096;

// Whether this block is the last of `blocks` to come here, whose threads then see
// what the others wrote before they came. Nobody waits, and who is last changes
// nothing if it adds in a fixed order. The counter is 0 before and after.
__device__ inline bool last_to_arrive(unsigned* arrivals, unsigned blocks) {
    SHARED(unsigned, last, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last[0] = atomicAdd(arrivals, 1u) + 1 == blocks;
        if (last[0]) atomicExch(arrivals, 0u);
    }
    __syncthreads();
    __threadfence();
    return last[0];
}

}  // namespace eosin
