// What changes state in place, so that a captured step finds it where it was:
//
//   copy:   to = from, of equal bytes that lie without holes; by words where
//           addresses and number of bytes are multiples of 4, else by bytes
//   count:  counter += 1
//
// Launch: copies take units / 1024 blocks of 256 threads, rounded up; a count is
// one block of a warp.
//
// Floor: memory. Each byte read and written once.
#include "common/base.cuh"
#include "common/walk.cuh"

using namespace eosin;

struct Copy {
    void* to;
    const void* from;
    unsigned units, padding;
};

struct Count {
    i64* counter;
};

template <class T>
__device__ void copy(const Copy& p) {
    each_element(p.units, [&](unsigned i) { static_cast<T*>(p.to)[i] = static_cast<const T*>(p.from)[i]; });
}

extern "C" __global__ void __launch_bounds__(256) eosin_copy_forward_b4(const Copy p) {
    copy<unsigned>(p);
}

extern "C" __global__ void __launch_bounds__(256) eosin_copy_forward_b1(const Copy p) {
    copy<unsigned char>(p);
}

extern "C" __global__ void __launch_bounds__(32) eosin_count_forward_i64(const Count p) {
    if (threadIdx.x == 0) p.counter[0] += 1;
}
