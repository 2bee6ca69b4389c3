// The `edges` largest entries of the mean over heads of attention (B, H, N, N), f32,
// of each sample, as the edges of a graph; of equal entries those earlier in
// row-major order. All that follows of a graph is i64.
//
//   select     rows and columns (B, E). A radix selection finds the E-th largest
//              entry, 6 bits of its rank at a time; what is larger, and the first
//              of its equals, are written in order.
//   incidence  where the edges of each node start, (B, N + 1) in either direction,
//              those that enter each node (B, E), and how many edges share a node
//              with each (B, E).
//
// Launch: select, one block of 1024 threads a sample, with 4 bytes of shared memory
// per entry, or none where a buffer of that size is given; incidence, a warp for each
// node, one more, and each edge: B (N + 1 + E) / 8 blocks of 256 threads, rounded up.
// Deterministic: atomics count integers alone.
// Floor: memory, the attention once; 8 MB of 32 samples of 2 heads of 196 nodes.
#include "common/graph.cuh"
#include "common/order.cuh"

using namespace eosin;

struct Select {
    const float* attention;
    i64* rows;
    i64* columns;
    unsigned* scratch;  // (B, N N) ranks, or null for shared memory
    unsigned heads, nodes, edges;
    unsigned padding;
};

constexpr unsigned SELECT_THREADS = 1024, SELECT_WARPS = SELECT_THREADS / WARP;
constexpr unsigned DIGITS = 64;  // 6 bits

__device__ void select_edges(const Select& p) {
    DYN_SHARED(bytes);
    // A column for each lane, so that the lanes of a warp never meet.
    SHARED(unsigned, counts, [DIGITS][WARP]);
    SHARED(unsigned, totals, [DIGITS]);
    SHARED(unsigned, larger, [SELECT_WARPS]);
    SHARED(unsigned, equal, [SELECT_WARPS]);
    const unsigned pairs = p.nodes * p.nodes, warp = threadIdx.x / WARP;
    unsigned* ranks = p.scratch != nullptr ? p.scratch + u64(blockIdx.x) * pairs
                                           : reinterpret_cast<unsigned*>(bytes);
    const float* attention = p.attention + u64(blockIdx.x) * p.heads * pairs;
    for (unsigned i = threadIdx.x; i < pairs; i += SELECT_THREADS) {
        float sum = 0.0f;
        for (unsigned h = 0; h < p.heads; ++h) sum += attention[u64(h) * pairs + i];
        ranks[i] = rank_of(sum / float(p.heads));
    }

    // The rank of the E-th largest, and how many of its equals are taken.
    unsigned threshold = 0, wanted = p.edges;
    for (int shift = 26; shift > -6; shift -= 6) {
        for (unsigned i = threadIdx.x; i < DIGITS * WARP; i += SELECT_THREADS) counts[i / WARP][i % WARP] = 0;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < pairs; i += SELECT_THREADS) {
            const unsigned rank = ranks[i];
            if (u64(rank ^ threshold) >> (shift + 6) != 0) continue;
            const u64 digit = shift < 0 ? u64(rank) << -shift : u64(rank) >> shift;
            atomicAdd(&counts[digit % DIGITS][lane()], 1u);
        }
        __syncthreads();
        if (threadIdx.x < DIGITS) {
            unsigned total = 0;
            // Each thread begins at a bank of its own.
            for (unsigned i = 0; i < WARP; ++i) total += counts[threadIdx.x][(i + threadIdx.x) % WARP];
            totals[threadIdx.x] = total;
        }
        __syncthreads();
        unsigned digit = DIGITS - 1;
        while (totals[digit] < wanted) wanted -= totals[digit--];
        threshold |= shift < 0 ? digit >> -shift : digit << shift;
    }

    // Each warp has a stretch of the entries.
    const unsigned stretch = (pairs + SELECT_THREADS - 1) / SELECT_THREADS * WARP;
    const unsigned first = warp * stretch;
    unsigned more = 0, same = 0;
    for (unsigned start = first; start < first + stretch; start += WARP) {
        const unsigned i = start + lane();
        const unsigned rank = i < pairs ? ranks[i] : 0;
        more += __popc(__ballot_sync(0xffffffffu, i < pairs && rank > threshold));
        same += __popc(__ballot_sync(0xffffffffu, i < pairs && rank == threshold));
    }
    if (lane() == 0) {
        larger[warp] = more;
        equal[warp] = same;
    }
    __syncthreads();
    more = same = 0;
    for (unsigned w = 0; w < warp; ++w) {
        more += larger[w];
        same += equal[w];
    }
    const unsigned before = (1u << lane()) - 1;
    i64* rows = p.rows + u64(blockIdx.x) * p.edges;
    i64* columns = p.columns + u64(blockIdx.x) * p.edges;
    for (unsigned start = first; start < first + stretch; start += WARP) {
        const unsigned i = start + lane();
        const unsigned rank = i < pairs ? ranks[i] : 0;
        const bool is_more = i < pairs && rank > threshold, is_same = i < pairs && rank == threshold;
        const unsigned mores = __ballot_sync(0xffffffffu, is_more);
        const unsigned sames = __ballot_sync(0xffffffffu, is_same);
        const unsigned above = more + __popc(mores & before), beside = same + __popc(sames & before);
        if (is_more || (is_same && beside < wanted)) {
            const unsigned at = above + (beside < wanted ? beside : wanted);
            rows[at] = i / p.nodes;
            columns[at] = i % p.nodes;
        }
        more += __popc(mores);
        same += __popc(sames);
    }
}

struct Incidence {
    const i64* rows;
    const i64* columns;
    i64* out_starts;
    i64* in_starts;
    i64* in_edges;
    i64* degrees;
    unsigned batch, nodes, edges;
    unsigned padding;
};

// The sum over a warp.
__device__ inline unsigned total(unsigned v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

__device__ void incidence(const Incidence& p) {
    const unsigned units = p.nodes + 1 + p.edges;
    const unsigned b = warp_unit() / units, unit = warp_unit() % units;
    if (b >= p.batch) return;
    const i64* rows = p.rows + u64(b) * p.edges;
    const i64* columns = p.columns + u64(b) * p.edges;
    if (unit > p.nodes) {
        const unsigned e = unit - p.nodes - 1;
        const i64 i = rows[e], j = columns[e];
        unsigned sharing = 0;
        for (unsigned f = lane(); f < p.edges; f += WARP) {
            sharing += rows[f] == i || rows[f] == j || columns[f] == i || columns[f] == j;
        }
        sharing = total(sharing);
        if (lane() == 0) p.degrees[u64(b) * p.edges + e] = sharing;
        return;
    }
    unsigned out = 0, in = 0;
    for (unsigned e = lane(); e < p.edges; e += WARP) {
        out += rows[e] < i64(unit);
        in += columns[e] < i64(unit);
    }
    out = total(out);
    in = total(in);
    if (lane() == 0) {
        p.out_starts[u64(b) * (p.nodes + 1) + unit] = out;
        p.in_starts[u64(b) * (p.nodes + 1) + unit] = in;
    }
    for (unsigned start = 0; start < p.edges; start += WARP) {
        const unsigned e = start + lane();
        const bool enters = e < p.edges && columns[e] == i64(unit);
        const unsigned all = __ballot_sync(0xffffffffu, enters);
        if (enters) p.in_edges[u64(b) * p.edges + in + __popc(all & ((1u << lane()) - 1))] = e;
        in += __popc(all);
    }
}

extern "C" __global__ void __launch_bounds__(1024) eosin_gcn_graph_forward_select_f32(const Select p) { select_edges(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_gcn_graph_forward_incidence_b8(const Incidence p) { incidence(p); }
