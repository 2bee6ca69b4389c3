// Features of the edges (i, j) of a graph, (B, E, H + 4), from attention (B, H, N, N)
// and node features x (B, N, C), f32: the attention of each head; its mean;
// 1 / (d / 3 + 1) with d the distance on a grid; 1 / sqrt((|xi - xj|^2 + s) / s) with
// s = C / 2; (cos + 1) / 2.
//
//   forward             features, and for the gradient of x the fourth feature, the
//                       cosine, 1 / |xi| and 1 / |xj|, (B, E, 4)
//   backward_attention  d_attention (B, H, N, N), 0 where there is no edge
//   backward_nodes      d_x (B, N, C), with u the other node of an edge and
//                       a = -g_3 near^3 / s, t = g_4 / 2:
//                       sum of (a - t cos / |x|^2) x + (t / |x||u| - a) u
//
// Launch: blocks of 256 threads. forward: a warp an edge, B E / 8 blocks rounded up.
// backward_attention: 4 pairs of nodes a thread. backward_nodes: a warp for a node and
// 32 channels, B N / 8 x C / 32 blocks, both rounded up.
// Deterministic. Floor: memory; backward_attention writes all of it.
#include "common/graph.cuh"
#include "common/walk.cuh"

using namespace eosin;

constexpr unsigned COMMON = 4, GEOMETRY = 4;

struct Features {
    float* out;
    float* geometry;
    const float* attention;
    const float* x;
    Graphs graphs;
    unsigned heads, channels, grid_width;
    unsigned padding;
};

__device__ inline float grid_distance(unsigned i, unsigned j, unsigned width) {
    const float down = float(i / width) - float(j / width);
    const float along = float(i % width) - float(j % width);
    return sqrtf(down * down + along * along);
}

__device__ inline float inverse_length(float squares) {
    return squares > 0.0f ? 1.0f / sqrtf(squares) : 0.0f;
}

__device__ void features(const Features& p) {
    const unsigned edges = p.graphs.edges, nodes = p.graphs.nodes;
    const unsigned b = warp_unit() / edges, e = warp_unit() % edges;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b);
    const unsigned i = graph.row(e), j = graph.column(e);
    const float* xi = p.x + (u64(b) * nodes + i) * p.channels;
    const float* xj = p.x + (u64(b) * nodes + j) * p.channels;
    float own = 0.0f, other = 0.0f, product = 0.0f, apart = 0.0f;
    for (unsigned c = lane(); c < p.channels; c += WARP) {
        const float u = xi[c], v = xj[c];
        own += u * u;
        other += v * v;
        product += u * v;
        apart += (u - v) * (u - v);
    }
    const float of_i = inverse_length(warp_sum(own)), of_j = inverse_length(warp_sum(other));
    const float cosine = warp_sum(product) * of_i * of_j;
    const float s = float(p.channels / 2), near = sqrtf(s / (warp_sum(apart) + s));

    float* out = p.out + (u64(b) * edges + e) * (p.heads + COMMON);
    float sum = 0.0f;
    for (unsigned h = lane(); h < p.heads; h += WARP) {
        const float a = p.attention[((u64(b) * p.heads + h) * nodes + i) * nodes + j];
        out[h] = a;
        sum += a;
    }
    sum = warp_sum(sum);
    if (lane() != 0) return;
    out += p.heads;
    out[0] = sum / float(p.heads);
    out[1] = 1.0f / (grid_distance(i, j, p.grid_width) / 3.0f + 1.0f);
    out[2] = near;
    out[3] = (cosine + 1.0f) / 2.0f;
    float* geometry = p.geometry + (u64(b) * edges + e) * GEOMETRY;
    geometry[0] = near;
    geometry[1] = cosine;
    geometry[2] = of_i;
    geometry[3] = of_j;
}

struct OfAttention {
    float* out;
    const float* g;
    Graphs graphs;
    unsigned heads;
    unsigned padding;
};

__device__ void of_attention(const OfAttention& p) {
    const unsigned nodes = p.graphs.nodes, pairs = nodes * nodes;
    each_element(p.graphs.batch * pairs, [&](unsigned at) {
        const unsigned b = at / pairs, pair = at % pairs;
        const unsigned e = p.graphs.sample(b).find(pair / nodes, pair % nodes);
        const float* g = p.g + (u64(b) * p.graphs.edges + (e == NO_EDGE ? 0 : e)) * (p.heads + COMMON);
        for (unsigned h = 0; h < p.heads; ++h) {
            const float value = e == NO_EDGE ? 0.0f : g[h] + g[p.heads] / float(p.heads);
            p.out[(u64(b) * p.heads + h) * pairs + pair] = value;
        }
    });
}

struct OfNodes {
    float* out;
    const float* g;
    const float* x;
    const float* geometry;
    Graphs graphs;
    unsigned channels, width;  // of x and of the features
};

__device__ void of_nodes(const OfNodes& p) {
    const unsigned nodes = p.graphs.nodes;
    const unsigned b = warp_unit() / nodes, n = warp_unit() % nodes;
    if (b >= p.graphs.batch) return;
    const Sample graph = p.graphs.sample(b);
    const unsigned first_out = graph.out_first(n), first_in = graph.in_first(n);
    const unsigned out = graph.out_count(n), both = out + graph.in_count(n);
    const unsigned c = blockIdx.y * WARP + lane();
    const bool mine = c < p.channels;
    const float* x = p.x + u64(b) * nodes * p.channels + (mine ? c : 0);
    const float s = float(p.channels / 2);
    float own = 0.0f, sum = 0.0f;  // the factor of x_n; what the others add
    for (unsigned start = 0; start < both; start += WARP) {
        // Each lane looks at an edge; then all take each.
        const unsigned at = start + lane();
        unsigned other = n;
        float of_own = 0.0f, of_other = 0.0f;
        if (at < both) {
            const bool leaves = at < out;
            const unsigned e = leaves ? first_out + at : unsigned(graph.in_edges[first_in + (at - out)]);
            other = leaves ? graph.column(e) : graph.row(e);
            if (other != n) {
                const float* g = p.g + (u64(b) * p.graphs.edges + e) * p.width + (p.width - 2);
                const float* geometry = p.geometry + (u64(b) * p.graphs.edges + e) * GEOMETRY;
                const float near = geometry[0], cosine = geometry[1];
                const float inverse = geometry[leaves ? 2 : 3];
                const float apart = -g[0] * near * near * near / s, turned = g[1] / 2.0f;
                of_own = apart - turned * cosine * inverse * inverse;
                of_other = turned * geometry[2] * geometry[3] - apart;
            }
        }
        const unsigned edges = both - start < WARP ? both - start : WARP;
        for (unsigned k = 0; k < edges; ++k) {
            own += __shfl_sync(0xffffffffu, of_own, k);
            const float factor = __shfl_sync(0xffffffffu, of_other, k);
            const unsigned from = __shfl_sync(0xffffffffu, other, k);
            sum += factor * x[u64(from) * p.channels];
        }
    }
    if (mine) p.out[(u64(b) * nodes + n) * p.channels + c] = own * x[u64(n) * p.channels] + sum;
}

extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_features_forward_f32(const __grid_constant__ Features p) { features(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_features_backward_attention_f32(const __grid_constant__ OfAttention p) { of_attention(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_edge_features_backward_nodes_f32(const __grid_constant__ OfNodes p) { of_nodes(p); }
