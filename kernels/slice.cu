// place: zeros with x at start, start + step, .. of one axis; elements of 2 or 4
// bytes.
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up.
// Every element is written by one thread, so the bits depend on nothing else.
// Floor: memory bandwidth, x read and the result written once.
#include "common/walk.cuh"

namespace eosin {

// Kernels take it as __grid_constant__, so that nothing of it goes through the
// stack.
struct PlaceParams {
    const void* x;
    void* out;
    unsigned size, inner;          // of the axis in the result: its size and stride
    unsigned start, step;
    unsigned length, stride;       // of the axis in x
    Walk walk;                     // over the result; operand 0 is x at 0 of the axis
};

template <class T>
__device__ inline void place(const PlaceParams& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) {
        const unsigned at = i / p.inner % p.size;
        T value = T(0);
        if (at >= p.start && (at - p.start) % p.step == 0) {
            const unsigned source = (at - p.start) / p.step;
            if (source < p.length) value = x[p.walk.place(0, i) + u64(source) * p.stride];
        }
        out[i] = value;
    });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_place_forward_b2(const __grid_constant__ eosin::PlaceParams p) { eosin::place<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_place_forward_b4(const __grid_constant__ eosin::PlaceParams p) { eosin::place<unsigned>(p); }
