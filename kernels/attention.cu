// Attention of each head: y = softmax(scale q k^T + bias) v by rows, and its
// gradient; f32, bf16 and f16.
//
//   s = scale q k^T + bias     p = e^(s - log_sum)     log_sum = log(sum(e^s))
//   y = p v                    dp = g v^T              ds = p (dp - sum(p dp))
//   dq = scale ds k            dk = scale ds^T q       dv = p^T g
//
// q (.., M, D), k (.., N, D), v (.., N, E) and g (.., M, E) with any strides and up
// to four leading axes; bias (.., M, N) with strides of 0 where it repeats. Rows of y
// lie in one piece each, with any strides between them, so that heads may lie side by
// side; other results are row-major if nothing else is said. N is at most 240: the
// scores of 64 queries and all keys lie in shared memory, and no row needs a second
// look at its keys.
//
// forward: block (tile of 64 queries of a head) makes the scores by tiles of 64
// keys, the softmax by warps, one row each, and y by tiles of 64 columns. It keeps
// log_sum (.., M) in f32 or p (.., M, N).
// backward: the same block makes p again and ds, and from that dq. p and ds go to
// memory, because dv = p^T g and dk = ds^T q sum over all queries: the host gives
// these products to src/ops/matmul, which cuts long sums into parts in a fixed
// order, and the sum of ds to the bias' shape to src/ops/reduce. N is about D, so
// that p and ds are no larger than q.
// backward_head: the same for up to 64 queries and keys of which the bias, if there
// is one, wants no gradient. A block has a whole head then, so that it sums over its
// queries too, and p and ds stay in shared memory: dq, dk and dv are all it writes,
// with strides as y has them.
//
// f32: tiles of common/product.cuh, blocks of 256 threads. bf16 and f16: tiles of
// common/mma.cuh on tensor cores with f32 sums, blocks of 128 threads; scores,
// softmax and ds are f32 too and rounded once, as operands of the next product (46
// columns become 48 on their way to shared memory, nowhere else) and as results.
//
// Launch: a block for every 64 queries of a head; in dynamic shared memory 64 rows
// of N floats and up to 31 of padding, backward twice that, and 32 KiB of panels for
// the tensor cores. Deterministic: every sum runs in the order of its tile, or in
// lanes of a warp and their tree.
//
// Floor: 2 M N (D + E) operations forward, 2 M N (2 D + E) backward, at the f32 roof.
// With tensor cores memory is the floor at the models' shapes (25 to 90 operations a
// byte): q, k, v and the result once.
#include "common/mma.cuh"
#include "common/product.cuh"

using namespace eosin;

namespace {

constexpr unsigned QUERIES = 64, KEYS = 64;  // of a tile

// src/ops/attention/cuda.rs has the twins of these four. The lines of every operand
// are its rows; f32 has no use for the width of its copies.
struct AttentionProblem {
    Operand q, k, v, bias;  // bias.data may be null
    unsigned batch[4];      // sizes, outermost first
    unsigned queries, keys, depth, width;
    unsigned pitch;         // of a row of scores in shared memory
    float scale;
};

struct AttentionForward {
    AttentionProblem of;
    Operand out;
    float* log_sums;  // or null
    void* weights;    // or null
};

struct AttentionBackward {
    AttentionProblem of;
    Operand g;
    const float* log_sums;
    void *dq, *p, *ds;
    float ds_scale;  // of ds in memory
    unsigned padding;
};

struct AttentionHeadBackward {
    AttentionProblem of;
    Operand g, dq, dk, dv;
    const float* log_sums;
};

// The tile of queries that a block works on.
struct Place {
    unsigned head, row;
    unsigned axes[4];

    __device__ explicit Place(const AttentionProblem& p) {
        const unsigned tiles = (p.queries + QUERIES - 1) / QUERIES;
        head = blockIdx.x / tiles;
        row = blockIdx.x % tiles * QUERIES;
        unsigned rest = head;
#pragma unroll
        for (int axis = 3; axis >= 0; --axis) {
            axes[axis] = rest % p.batch[axis];
            rest /= p.batch[axis];
        }
    }

    // Where the head's matrix of an operand starts.
    __device__ u64 in(const Operand& of) const {
        u64 at = 0;
#pragma unroll
        for (int axis = 0; axis < 4; ++axis) at += u64(axes[axis]) * of.batch[axis];
        return at;
    }
};

// Products of a block on CUDA cores.
struct Singles {
    using Scalar = float;
    static constexpr unsigned THREADS = PRODUCT_THREADS, PANELS = 0;

    // Rows of scores in shared memory, summed along the keys.
    struct Scores {
        Panel<64> panel;
        const float* scores;
        unsigned rows, pitch;

        __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[Panel<64>::EACH]) const {
#pragma unroll
            for (int j = 0; j < Panel<64>::EACH; ++j) {
                const unsigned i = panel.across(j), k = k0 + panel.inner(j);
                to[j] = i < rows && k < k_end ? scores[i * pitch + k] : 0.0f;
            }
        }
    };

    // The same scores by keys, summed along the queries.
    struct Turned {
        Panel<64> panel;
        const float* scores;
        unsigned keys, pitch;

        __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[Panel<64>::EACH]) const {
#pragma unroll
            for (int j = 0; j < Panel<64>::EACH; ++j) {
                const unsigned i = panel.across(j), k = k0 + panel.inner(j);
                to[j] = i < keys && k < k_end ? scores[k * pitch + i] : 0.0f;
            }
        }
    };

    __device__ static const float* matrix(const Place& at, const Operand& of) {
        return reinterpret_cast<const float*>(of.data) + at.in(of);
    }
    __device__ static StridedPanel<64> rows(const Place& at, const Operand& of, unsigned start, unsigned rows) {
        return {{of.step <= of.line}, matrix(at, of), start, rows, of.line, of.step};
    }

    // Rows of `left` times rows of `right`, each of `length`: (queries, keys) of them
    // to shared memory.
    __device__ static void row_products(
        const Place& at, const Operand& left, const Operand& right, const AttentionProblem& p,
        unsigned length, unsigned char*, float* to) {
        const StridedPanel<64> a = rows(at, left, at.row, p.queries);
        for (unsigned first = 0; first < p.keys; first += KEYS) {
            const StridedPanel<64> b = rows(at, right, first, p.keys);
            product_tile<64, 64>(a, b, 0, length, [&](unsigned i, unsigned j, float sum) {
                if (first + j < p.keys) to[i * p.pitch + first + j] = sum;
            });
        }
    }

    // scores (queries, keys) times `right` (keys, columns), to rows of `out`.
    __device__ static void times_scores(
        const Place& at, const float* scores, const Operand& right, const AttentionProblem& p,
        unsigned columns, unsigned char*, float* out, unsigned line) {
        const unsigned rows = min(p.queries - at.row, QUERIES);
        const Scores a{{true}, scores, rows, p.pitch};
        times(at, a, right, rows, p.keys, columns, out, line);
    }

    // The transpose of scores (queries, keys) times `right` (queries, columns).
    __device__ static void times_turned(
        const Place& at, const float* scores, const Operand& right, const AttentionProblem& p,
        unsigned columns, unsigned char*, float* out, unsigned line) {
        const Turned a{{false}, scores, p.keys, p.pitch};
        times(at, a, right, p.keys, p.queries, columns, out, line);
    }

    template <class Left>
    __device__ static void times(
        const Place& at, const Left& a, const Operand& right, unsigned rows, unsigned sum, unsigned columns,
        float* out, unsigned line) {
        for (unsigned first = 0; first < columns; first += 64) {
            const StridedPanel<64> b{
                {right.line < right.step}, matrix(at, right), first, columns, right.step, right.line};
            product_tile<64, 64>(a, b, 0, sum, [&](unsigned i, unsigned j, float v) {
                if (i < rows && first + j < columns) out[u64(i) * line + first + j] = v;
            });
        }
    }
};

// Products of a block on tensor cores.
template <class Half>
struct Halves {
    using Scalar = typename Half::Scalar;
    static constexpr unsigned THREADS = 128, PANELS = STAGES * 2 * 64 * DEPTH * 2;

    using Rows = HalfPanel<64, true, THREADS>;
    using Columns = HalfPanel<64, false, THREADS>;

    // Rows of scores in shared memory, rounded on their way into the panel.
    struct Scores : PanelPlan<64, true, THREADS> {
        using Plan = PanelPlan<64, true, THREADS>;
        const float* scores;
        unsigned rows, pitch;

        __device__ Scores(const float* scores, unsigned rows, unsigned pitch)
            : scores(scores), rows(rows), pitch(pitch) {}

        __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) const {
            struct alignas(16) Piece { typename Half::Pair pairs[4]; };
            const unsigned first = k + Plan::first();
#pragma unroll
            for (int j = 0; j < Plan::EACH; ++j) {
                const unsigned l = Plan::line(j);
                float v[8];
#pragma unroll
                for (unsigned e = 0; e < 8; ++e)
                    v[e] = l < rows && first + e < k_end ? scores[l * pitch + first + e] : 0.0f;
                *reinterpret_cast<Piece*>(to + Plan::own(j)) = {
                    {Half::pair(v[0], v[1]), Half::pair(v[2], v[3]), Half::pair(v[4], v[5]), Half::pair(v[6], v[7])}};
            }
        }
    };

    // The same scores by keys, in lines of queries.
    struct Turned : PanelPlan<64, false, THREADS> {
        using Plan = PanelPlan<64, false, THREADS>;
        const float* scores;
        unsigned keys, pitch;

        __device__ Turned(const float* scores, unsigned keys, unsigned pitch)
            : scores(scores), keys(keys), pitch(pitch) {}

        __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) const {
            struct alignas(16) Piece { typename Half::Pair pairs[4]; };
#pragma unroll
            for (int j = 0; j < Plan::EACH; ++j) {
                const unsigned l = k + Plan::line(j);
                float v[8];
#pragma unroll
                for (unsigned e = 0; e < 8; ++e)
                    v[e] = l < k_end && Plan::first() + e < keys ? scores[l * pitch + Plan::first() + e] : 0.0f;
                *reinterpret_cast<Piece*>(to + Plan::own(j)) = {
                    {Half::pair(v[0], v[1]), Half::pair(v[2], v[3]), Half::pair(v[4], v[5]), Half::pair(v[6], v[7])}};
            }
        }
    };

    __device__ static void row_products(
        const Place& at, const Operand& left, const Operand& right, const AttentionProblem& p,
        unsigned length, unsigned char* panels, float* to) {
#pragma unroll 1
        for (unsigned first = 0; first < p.keys; first += KEYS) {
            Rows a(left, at.in(left), at.row, p.queries, 0);
            Rows b(right, at.in(right), first, p.keys, 0);
            half_tile<Half, 64, 64, 32, 32>(a, b, 0, length, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
#pragma unroll
                for (unsigned e = 0; e < 4; ++e)
                    if (first + j + e < p.keys) to[i * p.pitch + first + j + e] = v[e];
            });
            // The panels are free again.
            __syncthreads();
        }
    }

    __device__ static void times_scores(
        const Place& at, const float* scores, const Operand& right, const AttentionProblem& p,
        unsigned columns, unsigned char* panels, Scalar* out, unsigned line) {
        const unsigned rows = min(p.queries - at.row, QUERIES);
        Scores a(scores, rows, p.pitch);
        times(at, a, right, rows, p.keys, columns, panels, out, line);
    }

    __device__ static void times_turned(
        const Place& at, const float* scores, const Operand& right, const AttentionProblem& p,
        unsigned columns, unsigned char* panels, Scalar* out, unsigned line) {
        Turned a(scores, p.keys, p.pitch);
        times(at, a, right, p.keys, p.queries, columns, panels, out, line);
    }

    template <class Left>
    __device__ static void times(
        const Place& at, Left& a, const Operand& right, unsigned rows, unsigned sum, unsigned columns,
        unsigned char* panels, Scalar* out, unsigned line) {
#pragma unroll 1
        for (unsigned first = 0; first < columns; first += 64) {
            Columns b(right, at.in(right), first, columns, 0);
            half_tile<Half, 64, 64, 32, 32>(a, b, 0, sum, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
#pragma unroll
                for (unsigned e = 0; e < 4; ++e)
                    if (i < rows && first + j + e < columns)
                        out[u64(i) * line + first + j + e] = narrowed<Scalar>(v[e]);
            });
            __syncthreads();
        }
    }
};

// The scores of a row from its products.
template <class Scalar>
struct Score {
    const Scalar* bias;  // of the row, or null
    unsigned step;
    float scale;

    __device__ Score(const Place& at, const AttentionProblem& p, unsigned i)
        : bias(nullptr), step(p.bias.step), scale(p.scale) {
        if (p.bias.data) {
            const Scalar* all = reinterpret_cast<const Scalar*>(p.bias.data);
            bias = all + at.in(p.bias) + u64(at.row + i) * p.bias.line;
        }
    }
    __device__ float operator()(float product, unsigned j) const {
        return bias ? fmaf(product, scale, widened(bias[u64(j) * step])) : product * scale;
    }
};

// A result's rows from the block's on.
template <class Scalar>
__device__ inline Scalar* rows_of(const Place& at, const Operand& result) {
    const Scalar* all = reinterpret_cast<const Scalar*>(result.data);
    return const_cast<Scalar*>(all) + at.in(result) + u64(at.row) * result.line;
}

template <class Tiles>
__device__ inline void forward(const AttentionForward& f) {
    using Scalar = typename Tiles::Scalar;
    DYN_SHARED(panels);
    float* scores = reinterpret_cast<float*>(panels + Tiles::PANELS);
    const AttentionProblem& p = f.of;
    const Place at(p);
    const unsigned lane = threadIdx.x % WARP;
    Tiles::row_products(at, p.q, p.k, p, p.depth, panels, scores);
    __syncthreads();

    for (unsigned i = threadIdx.x / WARP; i < QUERIES && at.row + i < p.queries; i += Tiles::THREADS / WARP) {
        const Score<Scalar> score(at, p, i);
        const u64 row = u64(at.head) * p.queries + at.row + i;
        float* own = scores + i * p.pitch;
        float top = -INFINITY;
        for (unsigned j = lane; j < p.keys; j += WARP) {
            own[j] = score(own[j], j);
            top = fmaxf(top, own[j]);
        }
        top = warp_max(top);
        float total = 0.0f;
        for (unsigned j = lane; j < p.keys; j += WARP) {
            own[j] = expf(own[j] - top);
            total += own[j];
        }
        total = warp_sum(total);
        const float part = 1.0f / total;
        Scalar* weights = f.weights ? static_cast<Scalar*>(f.weights) + row * p.keys : nullptr;
        for (unsigned j = lane; j < p.keys; j += WARP) {
            own[j] *= part;
            if (weights) weights[j] = narrowed<Scalar>(own[j]);
        }
        if (f.log_sums && lane == 0) f.log_sums[row] = top + logf(total);
    }
    __syncthreads();
    Scalar* out = rows_of<Scalar>(at, f.out);
    Tiles::times_scores(at, scores, p.v, p, p.width, panels, out, f.out.line);
}

// p of a tile of queries, and ds times the scale, to shared memory; p and ds, times
// `ds_scale`, to memory too if there is room.
template <class Tiles>
__device__ inline void probabilities(
    const Place& at, const AttentionProblem& p, const Operand& g, const float* log_sums,
    typename Tiles::Scalar* to_p, typename Tiles::Scalar* to_ds, float ds_scale, unsigned char* panels,
    float* scores, float* gradients) {
    using Scalar = typename Tiles::Scalar;
    const unsigned lane = threadIdx.x % WARP;
    Tiles::row_products(at, p.q, p.k, p, p.depth, panels, scores);
    Tiles::row_products(at, g, p.v, p, p.width, panels, gradients);
    __syncthreads();

    for (unsigned i = threadIdx.x / WARP; i < QUERIES && at.row + i < p.queries; i += Tiles::THREADS / WARP) {
        const Score<Scalar> score(at, p, i);
        const u64 row = u64(at.head) * p.queries + at.row + i;
        const float log_sum = log_sums[row];
        float *own = scores + i * p.pitch, *ds = gradients + i * p.pitch;
        float inner = 0.0f;
        for (unsigned j = lane; j < p.keys; j += WARP) {
            own[j] = expf(score(own[j], j) - log_sum);
            inner = fmaf(own[j], ds[j], inner);
        }
        inner = warp_sum(inner);
        for (unsigned j = lane; j < p.keys; j += WARP) {
            const float d = own[j] * (ds[j] - inner);
            if (to_p) {
                to_p[row * p.keys + j] = narrowed<Scalar>(own[j]);
                to_ds[row * p.keys + j] = narrowed<Scalar>(d * ds_scale);
            }
            ds[j] = d * p.scale;
        }
    }
    __syncthreads();
}

template <class Tiles>
__device__ inline void backward(const AttentionBackward& b) {
    using Scalar = typename Tiles::Scalar;
    DYN_SHARED(panels);
    const AttentionProblem& p = b.of;
    float* scores = reinterpret_cast<float*>(panels + Tiles::PANELS);
    float* gradients = scores + QUERIES * p.pitch;
    const Place at(p);
    probabilities<Tiles>(
        at, p, b.g, b.log_sums, static_cast<Scalar*>(b.p), static_cast<Scalar*>(b.ds), b.ds_scale, panels, scores,
        gradients);
    Scalar* dq = static_cast<Scalar*>(b.dq) + (u64(at.head) * p.queries + at.row) * p.depth;
    Tiles::times_scores(at, gradients, p.k, p, p.depth, panels, dq, p.depth);
}

template <class Tiles>
__device__ inline void backward_head(const AttentionHeadBackward& b) {
    using Scalar = typename Tiles::Scalar;
    DYN_SHARED(panels);
    const AttentionProblem& p = b.of;
    float* scores = reinterpret_cast<float*>(panels + Tiles::PANELS);
    float* gradients = scores + QUERIES * p.pitch;
    const Place at(p);
    Scalar* const none = nullptr;
    probabilities<Tiles>(at, p, b.g, b.log_sums, none, none, 0.0f, panels, scores, gradients);
    Scalar *dq = rows_of<Scalar>(at, b.dq), *dk = rows_of<Scalar>(at, b.dk), *dv = rows_of<Scalar>(at, b.dv);
    Tiles::times_scores(at, gradients, p.k, p, p.depth, panels, dq, b.dq.line);
    Tiles::times_turned(at, gradients, p.q, p, p.depth, panels, dk, b.dk.line);
    Tiles::times_turned(at, scores, b.g, p, p.width, panels, dv, b.dv.line);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2) eosin_attention_forward_f32(const AttentionForward f) { forward<Singles>(f); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_forward_bf16(const AttentionForward f) { forward<Halves<Bf16>>(f); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_forward_f16(const AttentionForward f) { forward<Halves<F16>>(f); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_attention_backward_f32(const AttentionBackward b) { backward<Singles>(b); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_backward_bf16(const AttentionBackward b) { backward<Halves<Bf16>>(b); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_backward_f16(const AttentionBackward b) { backward<Halves<F16>>(b); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_attention_backward_head_f32(const __grid_constant__ AttentionHeadBackward b) { backward_head<Singles>(b); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_backward_head_bf16(const __grid_constant__ AttentionHeadBackward b) { backward_head<Halves<Bf16>>(b); }
extern "C" __global__ void __launch_bounds__(128) eosin_attention_backward_head_f16(const __grid_constant__ AttentionHeadBackward b) { backward_head<Halves<F16>>(b); }
