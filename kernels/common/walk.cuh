// How element-wise kernels step through differently laid out operands.
#pragma once
#include "common/base.cuh"

namespace eosin {

// The axes of a dense output in physical order, and each operand's stride along
// them, in elements. src/device/cuda/launch.rs builds it and has its twin.
struct Walk {
    unsigned elements, rank;
    unsigned dims[6];
    unsigned strides[3][6];

    // Where operand `which` has what belongs to output element `i`.
    __device__ u64 place(int which, unsigned i) const {
        u64 at = 0;
        for (int axis = int(rank) - 1; axis > 0; --axis) {
            at += u64(i % dims[axis]) * strides[which][axis];
            i /= dims[axis];
        }
        return at + u64(i) * strides[which][0];
    }

    // Whether operand `which` lies as the output does.
    __device__ bool aligned(int which) const { return rank == 1 && strides[which][0] == 1; }
};

// Threads of a block and elements of a thread in element-wise kernels; the host
// launches elements / (256 * 4) blocks, rounded up.
constexpr unsigned WALK_THREADS = 256, WALK_EACH = 4;

// `f(i)` for the elements of this thread, a warp's accesses side by side.
template <class F>
__device__ inline void each_element(unsigned elements, F f) {
    const unsigned start = blockIdx.x * (WALK_THREADS * WALK_EACH) + threadIdx.x;
#pragma unroll
    for (unsigned k = 0; k < WALK_EACH; ++k) {
        const unsigned i = start + k * WALK_THREADS;
        if (i < elements) f(i);
    }
}

}  // namespace eosin
