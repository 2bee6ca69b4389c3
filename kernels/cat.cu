// Tensors one after the other along an axis: each is one launch that copies it
// to its part of the result, elements of 1, 2, 4 or 8 bytes.
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up.
// Every element is written by one thread, so the bits depend on nothing else.
// Floor: memory bandwidth, each operand and the result once.
#include "common/walk.cuh"

namespace eosin {

// Kernels take it as __grid_constant__: without, the compiler copies a struct of
// this size to the stack to index it.
struct CatParams {
    const void* x;
    void* out;   // where the part begins
    Walk walk;   // over the part; operand 0 is x, operand 1 the result
};

template <class T>
__device__ inline void append(const CatParams& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) { out[p.walk.place(1, i)] = x[p.walk.place(0, i)]; });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_cat_forward_b1(const __grid_constant__ eosin::CatParams p) { eosin::append<unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cat_forward_b2(const __grid_constant__ eosin::CatParams p) { eosin::append<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cat_forward_b4(const __grid_constant__ eosin::CatParams p) { eosin::append<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_cat_forward_b8(const __grid_constant__ eosin::CatParams p) { eosin::append<eosin::u64>(p); }
