// Reading and adding along an axis by index, for gather, scatter_add and, with
// an index that repeats along the other axes, index_select and index_add.
#pragma once
#include "common/walk.cuh"

namespace eosin {

// src/ops/indexed.rs has its twin. The walk is over the contiguous result, with
// x as operand 0 and the index as operand 1; an operand that is stepped along
// the axis by its stride here stands still along it in the walk.
struct Indexed {
    const void* x;
    const i64* index;
    void* out;
    Control* control;
    unsigned kernel;                  // its place in the table, plus 1
    unsigned size;                    // the bound of the index
    unsigned inner;                   // elements of the result after the axis
    unsigned picked;                  // length of the index along the axis
    unsigned x_stride, index_stride;  // along the axis
    Walk walk;
};

// y[.., i, ..] = x[.., index[.., i, ..], ..]; 0 where the index is out of bounds.
template <class T>
__device__ inline void read_indexed(const Indexed& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) {
        const i64 at = p.index[p.walk.place(1, i)];
        T value = T(0);
        if (at >= 0 && at < i64(p.size)) {
            value = x[p.walk.place(0, i) + u64(at) * p.x_stride];
        } else {
            report(p.control, p.kernel, at, p.size);
        }
        out[i] = value;
    });
}

// y[.., k, ..] = the sum of x[.., i, ..] over the i with index[.., i, ..] = k, in
// ascending order of i. The thread of k = 0 checks the bounds.
__device__ inline void add_indexed(const Indexed& p) {
    const float* x = static_cast<const float*>(p.x);
    float* out = static_cast<float*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) {
        const i64 own = i / p.inner % p.size;
        const float* from = x + p.walk.place(0, i);
        const i64* index = p.index + p.walk.place(1, i);
        float sum = 0.0f;
        for (unsigned k = 0; k < p.picked; ++k) {
            const i64 at = index[u64(k) * p.index_stride];
            if (at == own) sum += from[u64(k) * p.x_stride];
            if (own == 0 && (at < 0 || at >= i64(p.size))) report(p.control, p.kernel, at, p.size);
        }
        out[i] = sum;
    });
}

}  // namespace eosin
