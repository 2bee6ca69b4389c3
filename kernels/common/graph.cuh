// The graphs of a batch as kernels read them: directed edges in row-major order
// of the adjacency matrix, and the edges of each node in both directions.
// src/ops/gcn/graph.rs says what each array is.
#pragma once
#include "common/base.cuh"

namespace eosin {

constexpr unsigned NO_EDGE = 0xffffffffu;

// Units of work, a warp each, of a block of 256 threads.
constexpr unsigned GRAPH_WARPS = 256 / WARP;

__device__ inline unsigned warp_unit() { return blockIdx.x * GRAPH_WARPS + threadIdx.x / WARP; }
__device__ inline unsigned lane() { return threadIdx.x % WARP; }

// One graph.
struct Sample {
    const i64 *rows, *columns, *out_starts, *in_starts, *in_edges, *degrees;

    __device__ unsigned row(unsigned e) const { return unsigned(rows[e]); }
    __device__ unsigned column(unsigned e) const { return unsigned(columns[e]); }
    __device__ unsigned out_first(unsigned n) const { return unsigned(out_starts[n]); }
    __device__ unsigned in_first(unsigned n) const { return unsigned(in_starts[n]); }
    __device__ unsigned out_count(unsigned n) const { return out_first(n + 1) - out_first(n); }
    __device__ unsigned in_count(unsigned n) const { return in_first(n + 1) - in_first(n); }

    // The edge between two nodes, or NO_EDGE.
    __device__ unsigned find(unsigned from, unsigned to) const {
        unsigned low = out_first(from);
        const unsigned end = out_first(from + 1);
        unsigned high = end;
        while (low < high) {
            const unsigned middle = (low + high) / 2;
            if (column(middle) < to) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low < end && column(low) == to ? low : NO_EDGE;
    }

    // A_ij of the node layer's adjacency, 0 where no edge leaves a node.
    __device__ float adjacency(unsigned i, unsigned j) const {
        const unsigned both = out_count(i) * out_count(j);
        return both == 0 ? 0.0f : 1.0f / sqrtf(float(both));
    }

    // The same of the edge layer, for neighbours.
    __device__ float edge_adjacency(unsigned e, unsigned f) const {
        return 1.0f / sqrtf(float(degrees[e] + 1) * float(degrees[f] + 1));
    }

    // How often edge `e` touches node `n`: T_ne.
    __device__ float touches(unsigned n, unsigned e) const {
        return float(row(e) == n) + float(column(e) == n);
    }

    // Off the diagonal, (T^t diag(v) T)_ef.
    __device__ float coupling(const float* v, unsigned e, unsigned f) const {
        const unsigned a = row(f), b = column(f);
        return touches(a, e) * v[a] + touches(b, e) * v[b];
    }
};

// src/ops/gcn/cuda.rs has its twin.
struct Graphs {
    const i64 *rows, *columns, *out_starts, *in_starts, *in_edges, *degrees;
    unsigned batch, nodes, edges;
    unsigned reversed;  // transition matrices are those of sample batch - 1 - b

    __device__ Sample sample(unsigned b) const {
        const u64 e = u64(b) * edges, n = u64(b) * (nodes + 1);
        return Sample{rows + e,      columns + e,  out_starts + n,
                      in_starts + n, in_edges + e, degrees + e};
    }

    // The graph whose transition matrix sample `b` uses.
    __device__ Sample transition(unsigned b) const { return sample(reversed ? batch - 1 - b : b); }
};

// The edges that share a node with edge (a, b), itself included, each at one of
// `count` places; the other places are empty.
struct Neighbours {
    Sample graph;
    unsigned a, b;
    unsigned out_a, in_a, out_b, in_b;  // where each list ends among the places
    unsigned first_out_a, first_in_a, first_out_b, first_in_b;

    __device__ Neighbours(const Sample& graph, unsigned e) : graph(graph), a(graph.row(e)), b(graph.column(e)) {
        const bool loop = a == b;
        first_out_a = graph.out_first(a);
        first_in_a = graph.in_first(a);
        first_out_b = graph.out_first(b);
        first_in_b = graph.in_first(b);
        out_a = graph.out_count(a);
        in_a = out_a + graph.in_count(a);
        out_b = in_a + (loop ? 0 : graph.out_count(b));
        in_b = out_b + (loop ? 0 : graph.in_count(b));
    }

    __device__ unsigned count() const { return in_b; }

    // The edge at place `p`, or NO_EDGE where it is at another place already.
    __device__ unsigned at(unsigned p) const {
        if (p < out_a) return first_out_a + p;
        if (p < in_a) {
            const unsigned f = unsigned(graph.in_edges[first_in_a + (p - out_a)]);
            return graph.row(f) == a ? NO_EDGE : f;
        }
        if (p < out_b) {
            const unsigned f = first_out_b + (p - in_a);
            return graph.column(f) == a ? NO_EDGE : f;
        }
        const unsigned f = unsigned(graph.in_edges[first_in_b + (p - out_b)]);
        return graph.row(f) == a || graph.row(f) == b ? NO_EDGE : f;
    }

    // `f(neighbour)` for those of this lane.
    template <class F>
    __device__ void each(F f) const {
        for (unsigned p = lane(); p < count(); p += WARP) {
            const unsigned neighbour = at(p);
            if (neighbour != NO_EDGE) f(neighbour);
        }
    }
};

// `f(edge, leaves)` for this lane's edges among those that leave node `n` and those
// that enter it.
template <class F>
__device__ inline void each_at_node(const Sample& graph, unsigned n, F f) {
    const unsigned first_out = graph.out_first(n), first_in = graph.in_first(n);
    const unsigned out = graph.out_count(n), both = out + graph.in_count(n);
    for (unsigned p = lane(); p < both; p += WARP) {
        if (p < out) {
            f(first_out + p, true);
        } else {
            f(unsigned(graph.in_edges[first_in + (p - out)]), false);
        }
    }
}

}  // namespace eosin
