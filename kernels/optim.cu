// One optimiser step over all parameters in one launch, f32; the rules are those
// of src/optim/mod.rs.
//
// A table in device memory names each parameter's value, gradient and moments,
// all dense. Its entries are cut into chunks of 2,048 elements, a block of 256
// threads each; a block finds its entry by bisection. What changes from step to
// step (rate, corrections of the moments) lies in device memory as well, so that
// a captured launch can be replayed. Values are read at `from` and written at
// `value`, the same place unless something else still holds the old values; a
// parameter with a bf16 shadow gets that written too, rounded to nearest even.
// Deterministic: every element is computed on its own.
// Floor: the bytes of values, gradients and moments (Adam: 28 an element, 30 with
// a shadow).
#include "common/base.cuh"

using namespace eosin;

namespace {

constexpr unsigned THREADS = 256, CHUNK = 2048;

// src/optim/cuda.rs has its twin, as of the other structs here.
struct Entry {
    const float* from;
    float* value;
    const float* gradient;
    float *first, *second;  // moments, null where the rule has none
    __nv_bfloat16* shadow;  // or null
    unsigned elements, block;  // block: the entry's first
    unsigned numbers, padding;  // its place among the numbers
};

struct Numbers {
    float step;        // lr, for Adam lr / (1 - b1^t)
    float shrink;      // what the value is multiplied with first
    float correction;  // sqrt(1 - b2^t)
    float fresh;       // 1 in the first step of momentum
};

struct StepParams {
    const Entry* table;
    const Numbers* numbers;
    unsigned entries;
    unsigned rule;  // 0 SGD, 1 SGD with momentum, 2 Nesterov, 3 Adam and AdamW
    float decay, momentum;
    float new_mean, keep_square, new_square, eps;
};

// The new value.
__device__ float updated(const StepParams& p, const Entry& e, const Numbers& n, unsigned i) {
    const float value = e.from[i];
    const float g = e.gradient[i] + p.decay * value;
    if (p.rule == 3) {
        float m = e.first[i], v = e.second[i];
        m += p.new_mean * (g - m);
        v = p.keep_square * v + p.new_square * g * g;
        e.first[i] = m;
        e.second[i] = v;
        return n.shrink * value - n.step * m / (sqrtf(v) / n.correction + p.eps);
    }
    float change = g;
    if (p.rule != 0) {
        // Not multiplied with 0: the buffer is unwritten then.
        const float b = n.fresh != 0.0f ? g : p.momentum * e.first[i] + g;
        e.first[i] = b;
        change = p.rule == 2 ? g + p.momentum * b : b;
    }
    return value - n.step * change;
}

__device__ void step(const StepParams& p) {
    unsigned low = 0, high = p.entries;
    while (high - low > 1) {
        const unsigned middle = (low + high) / 2;
        if (p.table[middle].block <= blockIdx.x) low = middle;
        else high = middle;
    }
    const Entry e = p.table[low];
    const Numbers n = p.numbers[e.numbers];
    const unsigned start = (blockIdx.x - e.block) * CHUNK + threadIdx.x;
#pragma unroll
    for (unsigned k = 0; k < CHUNK / THREADS; ++k) {
        const unsigned i = start + k * THREADS;
        if (i >= e.elements) continue;
        const float value = updated(p, e, n, i);
        e.value[i] = value;
        if (e.shadow) e.shadow[i] = __float2bfloat16_rn(value);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) eosin_step_forward_f32(const StepParams p) { step(p); }
