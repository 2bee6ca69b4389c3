// The wrappers of ptx.cuh against plain numbers. Blocks of one warp.
#include "common/base.cuh"
#include "common/ptx.cuh"

struct FragmentParams {
    float* d;           // 16 x 8, row by row
    const void* a;      // 16 x 16, or 16 x 8 of f32; row by row
    const void* b;      // 16 x 8, or 8 x 8 of f32; row by row
};

__device__ inline void store(const FragmentParams& p, const float (&d)[4]) {
    int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    for (int i = 0; i < 4; ++i) p.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

__device__ inline void start(const FragmentParams& p, float (&d)[4]) {
    int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    for (int i = 0; i < 4; ++i) d[i] = p.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
}

// Registers filled by the tables at the head of ptx.cuh.
__device__ inline void gather(const FragmentParams& p, uint32_t (&a)[4], uint32_t (&b)[2]) {
    int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    auto as = static_cast<const uint16_t*>(p.a);
    auto bs = static_cast<const uint16_t*>(p.b);
    for (int i = 0; i < 4; ++i) {
        const uint16_t* pair = as + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        a[i] = pair[0] | uint32_t(pair[1]) << 16;
    }
    for (int i = 0; i < 2; ++i) {
        int k = 2 * t + 8 * i;
        b[i] = bs[k * 8 + g] | uint32_t(bs[(k + 1) * 8 + g]) << 16;
    }
}

extern "C" __global__ void __launch_bounds__(32) probe_mma_bf16(const FragmentParams p) {
    uint32_t a[4], b[2];
    float d[4];
    start(p, d);
    gather(p, a, b);
    ptx::mma_bf16(d, a, b[0], b[1]);
    store(p, d);
}

extern "C" __global__ void __launch_bounds__(32) probe_mma_f16(const FragmentParams p) {
    uint32_t a[4], b[2];
    float d[4];
    start(p, d);
    gather(p, a, b);
    ptx::mma_f16(d, a, b[0], b[1]);
    store(p, d);
}

extern "C" __global__ void __launch_bounds__(32) probe_mma_tf32(const FragmentParams p) {
    int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    auto as = static_cast<const float*>(p.a);
    auto bs = static_cast<const float*>(p.b);
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i) a[i] = ptx::to_tf32(as[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    for (int i = 0; i < 2; ++i) b[i] = ptx::to_tf32(bs[(t + 4 * i) * 8 + g]);
    float d[4];
    start(p, d);
    ptx::mma_tf32(d, a, b[0], b[1]);
    store(p, d);
}

// The usual way: rows of 8 through shared memory. B is kept as it is, so that its
// columns come out of the transposing load.
extern "C" __global__ void __launch_bounds__(32) probe_product(const FragmentParams p) {
    SHARED(uint4, rows, [16][2]);
    SHARED(uint4, columns, [16]);
    int lane = int(threadIdx.x);
    rows[lane / 2][lane % 2] = static_cast<const uint4*>(p.a)[lane];
    if (lane < 16) columns[lane] = static_cast<const uint4*>(p.b)[lane];
    __syncwarp();
    uint32_t a[4], b[2];
    ptx::ldmatrix_x4(a, &rows[lane % 16][lane / 16]);
    ptx::ldmatrix_x2_trans(b, &columns[lane % 16]);
    float d[4];
    start(p, d);
    ptx::mma_bf16(d, a, b[0], b[1]);
    store(p, d);
}

struct MatrixParams {
    uint32_t* out;       // per form of the load its registers: [registers][32]
    const uint4* in;     // 32 rows of 8 elements
};

// Every form of the load from the same four matrices.
extern "C" __global__ void __launch_bounds__(32) probe_ldmatrix(const MatrixParams p) {
    SHARED(uint4, rows, [32]);
    int lane = int(threadIdx.x);
    rows[lane] = p.in[lane];
    __syncwarp();
    uint32_t* out = p.out + lane;
    auto keep = [&](const uint32_t* r, int count) {
        for (int i = 0; i < count; ++i, out += 32) *out = r[i];
    };
    uint32_t one[1], two[2], four[4];
    ptx::ldmatrix_x1(one, &rows[lane % 8]);
    keep(one, 1);
    ptx::ldmatrix_x2(two, &rows[lane % 16]);
    keep(two, 2);
    ptx::ldmatrix_x4(four, &rows[lane]);
    keep(four, 4);
    ptx::ldmatrix_x1_trans(one, &rows[lane % 8]);
    keep(one, 1);
    ptx::ldmatrix_x2_trans(two, &rows[lane % 16]);
    keep(two, 2);
    ptx::ldmatrix_x4_trans(four, &rows[lane]);
    keep(four, 4);
}

struct CopyParams {
    uint32_t* out;       // [3][64], what shared memory held
    const uint32_t* in;  // 64 words
};

// Copies of every size; each thread's source ends after `thread % (size + 1)` bytes.
template <int BYTES>
__device__ inline void copy_some(unsigned char* to, const CopyParams& p) {
    int words = BYTES / 4, i = int(threadIdx.x);
    if (i < 64 / words) {
        ptx::cp_async<BYTES>(to + i * BYTES, p.in + i * words, i % (BYTES + 1));
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(64) probe_copies(const CopyParams p) {
    SHARED(uint4, held, [3][16]);
    copy_some<4>(reinterpret_cast<unsigned char*>(held[0]), p);
    copy_some<8>(reinterpret_cast<unsigned char*>(held[1]), p);
    copy_some<16>(reinterpret_cast<unsigned char*>(held[2]), p);
    for (int size = 0; size < 3; ++size) {
        p.out[size * 64 + threadIdx.x] = reinterpret_cast<const uint32_t*>(held[size])[threadIdx.x];
    }
}
