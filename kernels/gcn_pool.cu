// Edges at their nodes, f32: y = T z scale for z (B, E, F) and y (B, N, F), T being how
// often an edge touches a node.
//
//   forward   y_n = scale (sum of z over the edges that leave n and those that enter it)
//   backward  d_z_e = scale (g_i + g_j) for e = (i, j)
//
// Launch: blocks of 256 threads. forward: a warp for a node and 12 channels, B N / 8 x
// F / 12 blocks, both rounded up. backward: 4 elements a thread.
// Deterministic: a lane takes every 32nd edge, then the warp's tree.
// Floor: memory, z twice and y once.
#include "common/graph.cuh"
#include "common/walk.cuh"

using namespace eosin;

constexpr unsigned CHANNELS = 12;

struct Pool {
    float* out;
    const float* x;  // z or g
    Graphs graphs;
    unsigned channels;
    float scale;
};

__device__ void pool(const Pool& p) {
    const unsigned nodes = p.graphs.nodes, b = warp_unit() / nodes, n = warp_unit() % nodes;
    if (b >= p.graphs.batch) return;
    const unsigned first = blockIdx.y * CHANNELS;
    const float* z = p.x + u64(b) * p.graphs.edges * p.channels + first;
    float sums[CHANNELS] = {};
    each_at_node(p.graphs.transition(b), n, [&](unsigned e, bool) {
#pragma unroll
        for (unsigned c = 0; c < CHANNELS; ++c) {
            if (first + c < p.channels) sums[c] += z[u64(e) * p.channels + c];
        }
    });
#pragma unroll
    for (unsigned c = 0; c < CHANNELS; ++c) {
        const float sum = warp_sum(sums[c]);
        if (lane() == c && first + c < p.channels) {
            p.out[u64(warp_unit()) * p.channels + first + c] = p.scale * sum;
        }
    }
}

__device__ void spread(const Pool& p) {
    const unsigned width = p.graphs.edges * p.channels;
    each_element(p.graphs.batch * width, [&](unsigned at) {
        const unsigned b = at / width, e = at % width / p.channels, c = at % p.channels;
        const Sample transition = p.graphs.transition(b);
        const float* g = p.x + u64(b) * p.graphs.nodes * p.channels + c;
        const float of_i = g[u64(transition.row(e)) * p.channels];
        const float of_j = g[u64(transition.column(e)) * p.channels];
        p.out[at] = p.scale * (of_i + of_j);
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_gcn_pool_forward_f32(const __grid_constant__ Pool p) { pool(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_pool_backward_f32(const __grid_constant__ Pool p) { spread(p); }
