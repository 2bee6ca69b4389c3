// Tiles as bytes -> what a network takes, in one pass; f32, bf16, f16:
//
//   d = density[x], level = floor(clamp(light e^(-M d), 0, 255))   if stained
//   y[o, p, c] = scale[c] sum over j of B[p, j] (sum over i of A[o, i] level[i, j, c]) + shift[c]
//
// x (N, H, W, 3) are levels of red, green and blue, y (N, h, w, 3). density is -ln((v +
// 1) / light), by level, M a 3 x 3 matrix: unmixing two stains, scaling their amounts
// and mixing them with other colours are one matrix. Levels are cut off to whole ones
// as where a stained tile is kept as bytes. A and B resize, tables as in common/taps.cuh.
//
// Launch: pixels of y / 1024 blocks of 256 threads, rounded up. A thread makes the
// three channels of a pixel, adding its taps in the order of the tables. Where e^x is
// rounded otherwise than on the host, a level may differ by one.
//
// Floor: memory. x once, 3 bytes a pixel, and y once, if pixels that several outputs
// share are served by the caches; each output stains its own taps again, 3
// exponentials each.
#include "common/half.cuh"
#include "common/taps.cuh"
#include "common/walk.cuh"

using namespace eosin;

// src/ops/normalise_tiles/cuda.rs has its twin.
struct NormaliseTiles {
    void* out;
    const unsigned char* x;
    Map rows, columns;
    unsigned pixels, stained;
    float density[256], matrix[9], light;
    float scale[3], shift[3];
};

template <class T>
__device__ inline void normalise_tiles(const NormaliseTiles& p) {
    SHARED(float, density, [256]);
    density[threadIdx.x] = p.density[threadIdx.x];
    __syncthreads();
    T* out = static_cast<T*>(p.out);
    each_element(p.pixels, [&](unsigned i) {
        const unsigned across = i % p.columns.outputs, rest = i / p.columns.outputs;
        const unsigned down = rest % p.rows.outputs, tile = rest / p.rows.outputs;
        const unsigned char* x = p.x + u64(tile) * p.rows.inputs * p.columns.inputs * 3;
        const unsigned top = p.rows.starts[down], bottom = p.rows.starts[down + 1];
        const unsigned left = p.columns.starts[across], right = p.columns.starts[across + 1];
        float total[3] = {};
        for (unsigned column = left; column < right; ++column) {
            const Tap b = p.columns.taps[column];
            float sum[3] = {};
            for (unsigned row = top; row < bottom; ++row) {
                const Tap a = p.rows.taps[row];
                const unsigned char* at = x + (u64(a.input) * p.columns.inputs + b.input) * 3;
                float level[3] = {float(at[0]), float(at[1]), float(at[2])};
                if (p.stained) {
                    const float d[3] = {density[at[0]], density[at[1]], density[at[2]]};
#pragma unroll
                    for (int c = 0; c < 3; ++c) {
                        const float* m = p.matrix + 3 * c;
                        const float v = p.light * expf(-(m[0] * d[0] + m[1] * d[1] + m[2] * d[2]));
                        level[c] = float(unsigned(fminf(fmaxf(v, 0.0f), 255.0f)));
                    }
                }
#pragma unroll
                for (int c = 0; c < 3; ++c) sum[c] += a.weight * level[c];
            }
#pragma unroll
            for (int c = 0; c < 3; ++c) total[c] += b.weight * sum[c];
        }
#pragma unroll
        for (int c = 0; c < 3; ++c) out[u64(i) * 3 + c] = narrowed<T>(total[c] * p.scale[c] + p.shift[c]);
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_normalise_tiles_forward_f32(const __grid_constant__ NormaliseTiles p) { normalise_tiles<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_normalise_tiles_forward_bf16(const __grid_constant__ NormaliseTiles p) { normalise_tiles<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_normalise_tiles_forward_f16(const __grid_constant__ NormaliseTiles p) { normalise_tiles<__half>(p); }
