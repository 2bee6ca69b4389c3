// CensNet's edge layer over the neighbouring edges of a graph, which share a node, f32:
//
//   forward_largest  m_f = max over e of S_ef, and the first e that has it, (B, E) each
//   forward          y_e = sum over f of S_ef / m_f z_f + bias      z, y (B, E, F)
//   backward_edges   d_z_f = sum over e of S_ef / m_f g_e, and for each end n of f in
//                    the transition matrix the part of f in d_v_n, (B, E, 2):
//                    sum over e not f of dS_ef A_ef T_ne, with
//                    dS_ef = g_e z_f / m_f, and where e has the maximum -z_f d_z_f / m_f
//   backward_nodes   d_v_n, the sum of its parts, (B, N)
//
// with A_ef = 1 / sqrt((d_e + 1) (d_f + 1)), S_ef = A_ef sum over n of T_ne v_n T_nf and
// S_ff = A_ff.
//
// Launch: blocks of 256 threads, a warp for an edge, backward_nodes for a node: B E / 8
// or B N / 8 blocks, rounded up; forward besides for 12 channels.
// Deterministic: a lane takes every 32nd neighbour, then the warp's tree.
// Floor: memory, z and y once; neighbours are read from the caches.
#include "common/graph.cuh"
#include "common/order.cuh"

using namespace eosin;

// Channels that a warp sums at once: those of TCGN's second layer.
constexpr unsigned CHANNELS = 12;

struct EdgeLayer {
    float* out;           // m, y or d_z
    i64* first;           // of the maximum: written, then read
    float* parts;
    const float* z;
    const float* weights;
    const float* largest;
    const float* bias;    // or null
    const float* g;
    Graphs graphs;
    unsigned channels;
    unsigned padding;
};

__device__ inline float strength(const Sample& graph, const Sample& transition, const float* v, unsigned e, unsigned f) {
    const float m = e == f ? 1.0f : transition.coupling(v, e, f);
    return graph.edge_adjacency(e, f) * m;
}

__device__ inline u64 warp_most(u64 v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const u64 other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v ? other : v;
    }
    return v;
}

__device__ void largest(const EdgeLayer& p) {
    const unsigned edges = p.graphs.edges, b = warp_unit() / edges, f = warp_unit() % edges;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b), transition = p.graphs.transition(b);
    const float* v = p.weights + u64(b) * p.graphs.nodes;
    u64 most = 0;
    Neighbours(graph, f).each([&](unsigned e) {
        const unsigned rank = rank_of(strength(graph, transition, v, e, f));
        const u64 key = u64(rank) << 32 | (0xffffffffu - e);
        most = key > most ? key : most;
    });
    const unsigned first = 0xffffffffu - unsigned(warp_most(most));
    if (lane() != 0) return;
    p.out[warp_unit()] = strength(graph, transition, v, first, f);
    p.first[warp_unit()] = first;
}

__device__ void edge_layer(const EdgeLayer& p) {
    const unsigned edges = p.graphs.edges, b = warp_unit() / edges, e = warp_unit() % edges;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b), transition = p.graphs.transition(b);
    const float* v = p.weights + u64(b) * p.graphs.nodes;
    const unsigned first = blockIdx.y * CHANNELS;
    float sums[CHANNELS] = {};
    Neighbours(graph, e).each([&](unsigned f) {
        const u64 at = u64(b) * edges + f;
        const float factor = strength(graph, transition, v, e, f) / p.largest[at];
        const float* z = p.z + at * p.channels + first;
#pragma unroll
        for (unsigned c = 0; c < CHANNELS; ++c) {
            if (first + c < p.channels) sums[c] += factor * z[c];
        }
    });
    float* out = p.out + u64(warp_unit()) * p.channels + first;
#pragma unroll
    for (unsigned c = 0; c < CHANNELS; ++c) {
        const float sum = warp_sum(sums[c]);
        if (lane() == c && first + c < p.channels) {
            out[c] = p.bias == nullptr ? sum : sum + p.bias[first + c];
        }
    }
}

__device__ void of_edges(const EdgeLayer& p) {
    const unsigned edges = p.graphs.edges, b = warp_unit() / edges, f = warp_unit() % edges;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b), transition = p.graphs.transition(b);
    const float* v = p.weights + u64(b) * p.graphs.nodes;
    const u64 at = warp_unit();
    const float most = p.largest[at];
    const float* z = p.z + at * p.channels;
    const float* g = p.g + u64(b) * edges * p.channels;
    const Neighbours neighbours(graph, f);
    float along = 0.0f;  // z_f d_z_f
    for (unsigned first = 0; first < p.channels; first += CHANNELS) {
        float sums[CHANNELS] = {};
        neighbours.each([&](unsigned e) {
            const float factor = strength(graph, transition, v, e, f) / most;
            const float* from = g + u64(e) * p.channels + first;
#pragma unroll
            for (unsigned c = 0; c < CHANNELS; ++c) {
                if (first + c < p.channels) sums[c] += factor * from[c];
            }
        });
#pragma unroll
        for (unsigned c = 0; c < CHANNELS; ++c) {
            const float sum = warp_sum(sums[c]);
            if (first + c < p.channels) {
                along += z[first + c] * sum;
                if (lane() == c) p.out[at * p.channels + first + c] = sum;
            }
        }
    }
    const unsigned first = unsigned(p.first[at]);
    const unsigned i = transition.row(f), j = transition.column(f);
    float of_i = 0.0f, of_j = 0.0f;
    neighbours.each([&](unsigned e) {
        if (e == f) return;
        float ds = 0.0f;
        for (unsigned c = 0; c < p.channels; ++c) ds += g[u64(e) * p.channels + c] * z[c];
        if (e == first) ds -= along;
        const float dm = ds / most * graph.edge_adjacency(e, f);
        of_i += dm * transition.touches(i, e);
        of_j += dm * transition.touches(j, e);
    });
    of_i = warp_sum(of_i);
    of_j = warp_sum(of_j);
    if (lane() == 0) {
        p.parts[2 * at] = of_i;
        p.parts[2 * at + 1] = of_j;
    }
}

struct OfNodes {
    float* out;
    const float* parts;
    Graphs graphs;
};

__device__ void of_nodes(const OfNodes& p) {
    const unsigned nodes = p.graphs.nodes, b = warp_unit() / nodes, n = warp_unit() % nodes;
    if (b >= p.graphs.batch) return;
    const float* parts = p.parts + u64(b) * p.graphs.edges * 2;
    float sum = 0.0f;
    each_at_node(p.graphs.transition(b), n, [&](unsigned e, bool leaves) { sum += parts[2 * e + (leaves ? 0 : 1)]; });
    sum = warp_sum(sum);
    if (lane() == 0) p.out[warp_unit()] = sum;
}

extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_forward_largest_f32(const __grid_constant__ EdgeLayer p) { largest(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_forward_f32(const __grid_constant__ EdgeLayer p) { edge_layer(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_backward_edges_f32(const __grid_constant__ EdgeLayer p) { of_edges(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_backward_nodes_f32(const __grid_constant__ OfNodes p) { of_nodes(p); }
