// CensNet's node layer over the edges (i, j) of a graph, f32:
//
//   forward           y_i = sum over j of a_ij x_j + bias      x, y (B, N, C)
//   backward_nodes    d_x_j = sum over i of a_ij g_i
//   backward_weights  d_w_k = A_ij g_i x_j + A_ji g_j x_i      w (B, E), k = (i, j)
//
// with a_ij = A_ij (w_ij + w_ji), of the weights of those that are edges of the
// transition matrix, and a_ii = A_ii; A_ij = 1 / sqrt(d_i d_j) with d the edges that
// leave a node.
//
// Launch: blocks of 256 threads. forward, backward_nodes: a warp for a node and 32
// channels, B N / 8 x C / 32 blocks, both rounded up. backward_weights: a warp for an
// edge, B E / 8 blocks rounded up.
// Deterministic. Floor: memory, x and y once; messages are read from the caches, where
// the features of a sample stay.
#include "common/graph.cuh"

using namespace eosin;

struct Messages {
    float* out;
    const float* x;
    const float* weights;
    const float* bias;  // or null
    Graphs graphs;
    unsigned channels;
    unsigned padding;
};

// a_ij of edge e.
__device__ inline float message(const Sample& graph, const Sample& transition, const float* w, unsigned e) {
    const unsigned i = graph.row(e), j = graph.column(e);
    float m = 1.0f;
    if (i != j) {
        const unsigned there = transition.find(i, j), back = transition.find(j, i);
        m = (there == NO_EDGE ? 0.0f : w[there]) + (back == NO_EDGE ? 0.0f : w[back]);
    }
    return graph.adjacency(i, j) * m;
}

// From the nodes that node n's edges go to, or with BACK those that they come from.
template <bool BACK>
__device__ void messages(const Messages& p) {
    const unsigned nodes = p.graphs.nodes;
    const unsigned b = warp_unit() / nodes, n = warp_unit() % nodes;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b), transition = p.graphs.transition(b);
    const float* w = p.weights + u64(b) * p.graphs.edges;
    const unsigned first = BACK ? graph.in_first(n) : graph.out_first(n);
    const unsigned count = BACK ? graph.in_count(n) : graph.out_count(n);
    const unsigned c = blockIdx.y * WARP + lane();
    const bool mine = c < p.channels;
    const float* x = p.x + u64(b) * nodes * p.channels + (mine ? c : 0);
    float sum = 0.0f;
    for (unsigned start = 0; start < count; start += WARP) {
        // Each lane weighs an edge; then all take each.
        unsigned other = n;
        float factor = 0.0f;
        if (start + lane() < count) {
            const unsigned at = first + start + lane();
            const unsigned e = BACK ? unsigned(graph.in_edges[at]) : at;
            other = BACK ? graph.row(e) : graph.column(e);
            factor = message(graph, transition, w, e);
        }
        const unsigned edges = count - start < WARP ? count - start : WARP;
        for (unsigned k = 0; k < edges; ++k) {
            const unsigned from = __shfl_sync(0xffffffffu, other, k);
            sum += __shfl_sync(0xffffffffu, factor, k) * x[u64(from) * p.channels];
        }
    }
    if (!mine) return;
    if (p.bias != nullptr) sum += p.bias[c];
    p.out[(u64(b) * nodes + n) * p.channels + c] = sum;
}

struct OfWeights {
    float* out;
    const float* g;
    const float* x;
    Graphs graphs;
    unsigned channels;
    unsigned padding;
};

__device__ void of_weights(const OfWeights& p) {
    const unsigned b = warp_unit() / p.graphs.edges, k = warp_unit() % p.graphs.edges;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b), transition = p.graphs.transition(b);
    const unsigned i = transition.row(k), j = transition.column(k);
    const u64 sample = u64(b) * p.graphs.nodes;
    float sum = 0.0f;
    if (i != j) {
        const float there = graph.find(i, j) == NO_EDGE ? 0.0f : graph.adjacency(i, j);
        const float back = graph.find(j, i) == NO_EDGE ? 0.0f : graph.adjacency(j, i);
        const u64 at_i = (sample + i) * p.channels, at_j = (sample + j) * p.channels;
        for (unsigned c = lane(); c < p.channels; c += WARP) {
            // Not a product with 0, which a number that is none would spoil.
            if (there != 0.0f) sum += there * p.g[at_i + c] * p.x[at_j + c];
            if (back != 0.0f) sum += back * p.g[at_j + c] * p.x[at_i + c];
        }
    }
    sum = warp_sum(sum);
    if (lane() == 0) p.out[u64(b) * p.graphs.edges + k] = sum;
}

extern "C" __global__ void __launch_bounds__(256) eosin_gcn_node_forward_f32(const __grid_constant__ Messages p) { messages<false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_node_backward_nodes_f32(const __grid_constant__ Messages p) { messages<true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_node_backward_weights_f32(const __grid_constant__ OfWeights p) { of_weights(p); }
