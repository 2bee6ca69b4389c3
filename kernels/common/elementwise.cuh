// What element-wise kernels of one to three operands share: their argument and
// their loops. A thread handles four elements, a warp's accesses side by side.
#pragma once
#include "common/walk.cuh"

namespace eosin {

// src/ops/elementwise.rs has its twin.
struct Elementwise {
    const void* inputs[3];
    void* out;
    float numbers[2];          // constants of the operator
    unsigned choice, padding;  // which of several formulas
    Walk walk;
};

// out = f(a).
template <class A, class U, class F>
__device__ inline void map1(const Elementwise& p, F f) {
    const A* a = static_cast<const A*>(p.inputs[0]);
    U* out = static_cast<U*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) { out[i] = f(a[p.walk.place(0, i)]); });
}

// out = f(a, b).
template <class A, class B, class U, class F>
__device__ inline void map2(const Elementwise& p, F f) {
    const A* a = static_cast<const A*>(p.inputs[0]);
    const B* b = static_cast<const B*>(p.inputs[1]);
    U* out = static_cast<U*>(p.out);
    each_element(p.walk.elements,
                 [&](unsigned i) { out[i] = f(a[p.walk.place(0, i)], b[p.walk.place(1, i)]); });
}

// out = f(a, b, c).
template <class A, class B, class C, class U, class F>
__device__ inline void map3(const Elementwise& p, F f) {
    const A* a = static_cast<const A*>(p.inputs[0]);
    const B* b = static_cast<const B*>(p.inputs[1]);
    const C* c = static_cast<const C*>(p.inputs[2]);
    U* out = static_cast<U*>(p.out);
    each_element(p.walk.elements, [&](unsigned i) {
        out[i] = f(a[p.walk.place(0, i)], b[p.walk.place(1, i)], c[p.walk.place(2, i)]);
    });
}

}  // namespace eosin
