// y = 0 with probability p and x / (1 - p) elsewhere; f32, bf16, f16.
//
// Element i in logical row-major order is kept when the first 24 bits of its
// word are at least p 2^24. Its word is word i % 4 of block position + i / 4 of
// a Philox4x32-10 stream (Salmon et al. 2011). In a captured step what the host
// left in device memory is added to key and position, so that replays draw the
// masks of their own step.
//
// Launch: 256 threads, 4 elements each, elements / 1024 blocks rounded up. One
// thread owns each element, so the bits depend on the stream alone.
// Floor: memory bandwidth, x and y once, where both are in logical order and a
// thread uses all four words of its block; elsewhere a block is drawn for each
// element, which costs about as much as the traffic.
#include "common/half.cuh"
#include "common/walk.cuh"

namespace eosin {

// Kernels take it as __grid_constant__, so that nothing of it goes through the
// stack.
struct DropoutParams {
    const void* x;
    void* out;
    const Random* replayed;  // none outside a captured step
    u64 key, position;
    unsigned threshold;  // p 2^24 rounded up
    float scale;
    Walk walk;           // over the result; operand 0 is x, operand 1 the logical order
};

struct Words {
    unsigned word[4];
};

__device__ inline Words philox(u64 key, u64 counter) {
    unsigned k0 = unsigned(key), k1 = unsigned(key >> 32);
    unsigned c0 = unsigned(counter), c1 = unsigned(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = u64(c0) * 0xD2511F53u, p1 = u64(c2) * 0xCD9E8D57u;
        c0 = unsigned(p1 >> 32) ^ c1 ^ k0;
        c1 = unsigned(p1);
        c2 = unsigned(p0 >> 32) ^ c3 ^ k1;
        c3 = unsigned(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

template <class T>
__device__ inline void dropout(const DropoutParams& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    u64 key = p.key, start = p.position;
    if (p.replayed) {
        key += p.replayed->key;
        start += p.replayed->position;
    }
    const unsigned threshold = p.threshold;
    const float scale = p.scale;
    const auto kept = [threshold, scale](T x, unsigned word) {
        return narrowed<T>(word >> 8 >= threshold ? widened(x) * scale : 0.0f);
    };
    if (p.walk.aligned(0) && p.walk.aligned(1)) {
        const unsigned block = blockIdx.x * WALK_THREADS + threadIdx.x;
        const Words words = philox(key, start + block);
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) {
            const unsigned i = block * 4 + k;
            if (i < p.walk.elements) out[i] = kept(x[i], words.word[k]);
        }
        return;
    }
    each_element(p.walk.elements, [&](unsigned i) {
        const u64 logical = p.walk.place(1, i);
        const Words words = philox(key, start + logical / 4);
        const unsigned k = unsigned(logical % 4);
        const unsigned low = k == 0 ? words.word[0] : words.word[1];
        const unsigned high = k == 2 ? words.word[2] : words.word[3];
        out[i] = kept(x[p.walk.place(0, i)], k < 2 ? low : high);
    });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_dropout_forward_f32(const __grid_constant__ eosin::DropoutParams p) { eosin::dropout<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_dropout_forward_bf16(const __grid_constant__ eosin::DropoutParams p) { eosin::dropout<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_dropout_forward_f16(const __grid_constant__ eosin::DropoutParams p) { eosin::dropout<__half>(p); }
