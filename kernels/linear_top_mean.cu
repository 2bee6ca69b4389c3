// The mean of the k highest scores of each gene among the tiles of a bag, and its
// gradient; f32, bf16, f16.
//
//   s[b, t, g] = bias[g] + sum over e of x[b, t, e] w[g, e]
//   y[b, i, g] = (sum of the ks[i] highest of s[b, :, g]) / ks[i]
//   dx[b, t, :] = sum over g of dy[b, g] / k [t is chosen for (b, g)] w[g, :]
//   dw[g, :] = sum over b, t of dy[b, g] / k [t is chosen for (b, g)] x[b, t, :]
//
// x (B, T, E) and w (G, E) row-major, bias (G) or none; y (B, ks, G), or (B, 1, G),
// the mean over ks, f32. T is at most 49, ks ascend. Scores never go to memory: for
// the gradient one bit says whether a tile is chosen, in rows of genes (B, T, words
// of 32). NaN is the highest score, -0 equals 0, and of equal scores that of the
// tile with the lower index is chosen.
//
// forward: block (64 genes, as many bags as have 256 tiles): with genes along M and
// the tiles of bags side by side along N no row of a tile is empty, and 245 of 256
// columns hold one of 49 tiles. The sums stay in shared memory, where a thread takes
// all scores of a gene in a bag, sorts them in registers (merge exchange, 49 keys,
// 383 comparisons), and adds them in descending order, which passes every k. The
// scores of 32 genes lie in 32 banks if every fourth gene begins a tile later.
// backward_tokens, backward_weight: products whose one operand, dy / k where a tile
// is chosen and 0 elsewhere, is made from dy and bits while it goes to shared
// memory. A block makes 128 x 128 (f32: 128 x 64); the sum over genes is cut into
// parts, which `join` of matmul.cu adds in order.
// backward_scaled: dy / k in bf16 or f16, with zeros up to a multiple of 64 genes.
// backward_chosen: the bits as f32, for gradients that are differentiated again.
//
// Launch: 256 threads; forward: blocks of genes x groups of bags, in dynamic shared
// memory 80 KiB of panels, f32 64 x 257 floats; backward 64 KiB of panels, f32 none.
// Deterministic: every sum has one order. The order of equal scores changes no sum.
//
// Floor: 2 B T E G operations at the roof of the dtype for each of the three
// products (77 GFLOP at 64 bags of 49 tiles, 384, 31,793 genes); x, w, y and 1/8
// byte for each score from and to memory. Sorting is about 900 operations on CUDA
// cores for each gene and bag, beside 37,632 on tensor cores.
#include "common/mma.cuh"
#include "common/order.cuh"
#include "common/product.cuh"

using namespace eosin;

namespace {

// src/ops/linear_top_mean/cuda.rs has the twins of these.
constexpr unsigned GENES = 64, COLUMNS = 256;  // of a block forward
constexpr unsigned MOST_TILES = 49, MOST_KS = 16;

struct TopMeanForward {
    Operand x, w;              // lines of `width`
    const void* bias;          // (genes) or null
    float* out;                // (bags, outputs, genes)
    unsigned* chosen;          // (bags, tiles, words), or null
    unsigned bags, tiles, genes, width;
    unsigned words, each;      // of a row of bits; bags of a block
    unsigned count, joined;    // ks, and whether their mean is wanted
    unsigned ks[MOST_KS];
};

struct TopMeanBackward {
    Operand other;             // w for the tokens' gradient, x for the weight's
    const void* dy;            // f32: (bags, genes), else (bags, 32 words) of dy / k
    const unsigned char* chosen;
    void* out;                 // (parts, rows, width)
    unsigned bags, tiles, genes, width;
    unsigned words, each;      // of a row of bits; of what is summed, per part
    unsigned wide;             // whether the result is f32
    float scale;               // 1 / k
};

// Descending order by Batcher's merge exchange (Knuth, The Art of Computer
// Programming, volume 3, algorithm 5.2.2 M).
template <unsigned N, unsigned TOP, unsigned P, unsigned Q, unsigned R, unsigned D>
__device__ __forceinline__ void exchange(unsigned (&keys)[N]) {
#pragma unroll
    for (unsigned i = 0; i < N - D; ++i) {
        if ((i & P) == R) {
            const unsigned a = keys[i], b = keys[i + D];
            keys[i] = max(a, b);
            keys[i + D] = min(a, b);
        }
    }
    if constexpr (Q != P) {
        exchange<N, TOP, P, Q / 2, P, Q - P>(keys);
    } else if constexpr (P > 1) {
        exchange<N, TOP, P / 2, TOP, 0, P / 2>(keys);
    }
}

// What rank_of made a key of.
__device__ inline float value_of(unsigned key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// From the scores of a block's genes and bags to means and bits: `sums(i, j)` is the
// product of its gene i with column j, tiles of one bag after the other.
template <class Scalar, class Sums>
__device__ inline void pool(const TopMeanForward& p, unsigned first_gene, unsigned first_bag, Sums sums) {
    const unsigned bags = min(p.each, p.bags - first_bag), lane = threadIdx.x % WARP;
#pragma unroll 1
    for (unsigned pair = threadIdx.x; pair < GENES * bags; pair += 256) {
        // A warp has 32 genes of one bag.
        const unsigned i = pair % GENES, gene = first_gene + i, bag = pair / GENES;
        const bool there = gene < p.genes;
        const float bias = p.bias && there ? widened(static_cast<const Scalar*>(p.bias)[gene]) : 0.0f;
        // The tile that this thread begins with.
        const unsigned turn = i / 4 % 8 % p.tiles;
        auto key = [&](unsigned j) {
            const unsigned tile = j + turn < p.tiles ? j + turn : j + turn - p.tiles;
            return rank_of(sums(i, bag * p.tiles + tile) + bias);
        };
        unsigned keys[MOST_TILES];
#pragma unroll
        for (unsigned j = 0; j < MOST_TILES; ++j) keys[j] = j < p.tiles ? key(j) : 0;  // below every score
        exchange<MOST_TILES, 32, 32, 32, 0, 32>(keys);

        float sum = 0.0f, joined = 0.0f;
        unsigned next = 0, least = 0;
        float* out = p.out + (u64(first_bag + bag) * (p.joined ? 1 : p.count)) * p.genes + gene;
#pragma unroll
        for (unsigned j = 0; j < MOST_TILES; ++j) {
            if (j >= p.tiles || next >= p.count) break;
            sum += value_of(keys[j]);
            if (p.ks[next] == j + 1) {
                const float mean = sum / float(j + 1);
                if (p.joined) joined += mean;
                else if (there) out[u64(next) * p.genes] = mean;
                least = keys[j];
                ++next;
            }
        }
        if (p.joined && there) *out = joined / float(p.count);

        if (p.chosen) {
            // Bit j is that of the j-th tile from `turn` on.
            u64 bits = 0, equal = 0;
#pragma unroll
            for (unsigned j = 0; j < MOST_TILES; ++j) {
                if (j >= p.tiles) break;
                const unsigned own = key(j);
                bits |= u64(own > least) << j;
                equal |= u64(own == least) << j;
            }
            const u64 all = (u64(1) << p.tiles) - 1;
            bits = (bits << turn | bits >> (p.tiles - turn)) & all;
            equal = (equal << turn | equal >> (p.tiles - turn)) & all;
            const unsigned above = __popc(unsigned(bits)) + __popc(unsigned(bits >> 32));
            for (unsigned missing = p.ks[0] - above; missing > 0; --missing) {
                bits |= equal & (0 - equal);
                equal &= equal - 1;
            }
            if (!there) bits = 0;
            unsigned low = 0, high = 0;
#pragma unroll 1
            for (unsigned tile = 0; tile < p.tiles; ++tile) {
                const unsigned word = __ballot_sync(0xffffffffu, int(bits >> tile & 1));
                if (tile == lane) low = word;
                if (tile == lane + WARP) high = word;
            }
            unsigned* to = p.chosen + u64(first_bag + bag) * p.tiles * p.words + gene / WARP;
            if (lane < p.tiles) to[u64(lane) * p.words] = low;
            if (lane + WARP < p.tiles) to[u64(lane + WARP) * p.words] = high;
        }
    }
}

// The block's first gene and first bag.
struct Block {
    unsigned gene, bag;
    __device__ explicit Block(const TopMeanForward& p) {
        const unsigned groups = (p.bags + p.each - 1) / p.each;
        gene = blockIdx.x / groups * GENES, bag = blockIdx.x % groups * p.each;
    }
};

__device__ inline void forward(const TopMeanForward& p) {
    constexpr unsigned PITCH = COLUMNS + 1;
    DYN_SHARED(bytes);
    float* sums = reinterpret_cast<float*>(bytes);
    const Block at(p);
    auto rows = [&](const Operand& of) { return reinterpret_cast<const float*>(of.data); };
    const unsigned end = min(at.bag + p.each, p.bags) * p.tiles;
    const StridedPanel<GENES> a{{true}, rows(p.w), at.gene, p.genes, p.w.line, p.w.step};
    const StridedPanel<COLUMNS> b{{true}, rows(p.x), at.bag * p.tiles, end, p.x.line, p.x.step};
    product_tile<GENES, COLUMNS>(
        a, b, 0, p.width, [&](unsigned i, unsigned j, float sum) { sums[i * PITCH + j] = sum; });
    __syncthreads();
    pool<float>(p, at.gene, at.bag, [&](unsigned i, unsigned j) { return sums[i * PITCH + j]; });
}

template <class Half>
__device__ inline void half_forward(const TopMeanForward& p) {
    DYN_SHARED(panels);
    const float* sums = reinterpret_cast<const float*>(panels);
    const Block at(p);
    HalfPanel<GENES, true, 256> a(p.w, 0, at.gene, p.genes, 0);
    HalfPanel<COLUMNS, true, 256> b(p.x, 0, at.bag * p.tiles, min(at.bag + p.each, p.bags) * p.tiles, 0);
    half_tile<Half, GENES, COLUMNS, 32, 64>(a, b, 0, p.width, panels, [](unsigned, unsigned, float (&)[4]) {});
    pool<typename Half::Scalar>(
        p, at.gene, at.bag, [&](unsigned i, unsigned j) { return sums[sum_place<COLUMNS>(i, j)]; });
}

// dy / k where a tile is chosen: rows of tiles summed along genes (TOKENS), or rows
// of genes summed along tiles.
template <bool TOKENS>
struct ChosenPanel {
    Panel<128> panel;
    const TopMeanBackward& p;
    unsigned start;

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[Panel<128>::EACH]) const {
        const float* dy = static_cast<const float*>(p.dy);
#pragma unroll
        for (int j = 0; j < Panel<128>::EACH; ++j) {
            const unsigned i = start + panel.across(j), k = k0 + panel.inner(j);
            const unsigned tile = TOKENS ? i : k, gene = TOKENS ? k : i;
            const bool inside = k < k_end && tile < p.bags * p.tiles && gene < p.genes;
            const bool taken = inside && p.chosen[u64(tile) * p.words * 4 + gene / 8] >> gene % 8 & 1;
            to[j] = taken ? dy[u64(tile / p.tiles) * p.genes + gene] * p.scale : 0.0f;
        }
    }
};

template <bool TOKENS>
__device__ inline void backward(const TopMeanBackward& p) {
    const unsigned rows = TOKENS ? p.bags * p.tiles : p.genes, sum = TOKENS ? p.genes : p.bags * p.tiles;
    const unsigned across = (p.width + 63) / 64;
    const unsigned row = blockIdx.x / across * 128, column = blockIdx.x % across * 64;
    const unsigned begin = blockIdx.y * p.each, end = min(begin + p.each, sum);
    const ChosenPanel<TOKENS> a{{TOKENS}, p, row};
    const StridedPanel<64> b{
        {false}, reinterpret_cast<const float*>(p.other.data), column, p.width, p.other.step, p.other.line};
    float* out = static_cast<float*>(p.out) + u64(blockIdx.y) * rows * p.width;
    product_tile<128, 64>(a, b, begin, end, [&](unsigned i, unsigned j, float v) {
        i += row, j += column;
        if (i < rows && j < p.width) out[u64(i) * p.width + j] = v;
    });
}

// The same as a panel for tensor cores, whose pieces are 8 genes of a tile.
template <bool TOKENS>
struct ChosenPieces : PanelPlan<128, TOKENS, 256> {
    using Plan = PanelPlan<128, TOKENS, 256>;
    const TopMeanBackward& p;
    unsigned start;

    __device__ ChosenPieces(const TopMeanBackward& p, unsigned start) : p(p), start(start) {}

    // Parts of the sum over genes are whole steps, and past the last gene there are
    // zeros up to the next step.
    __device__ void bring(unsigned char* to, unsigned k, unsigned) const {
        const unsigned columns = p.words * 32;
        const unsigned short* dy = static_cast<const unsigned short*>(p.dy);
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            const unsigned tile = Plan::line(j) + (TOKENS ? start : k);
            const unsigned gene = Plan::first() + (TOKENS ? k : start);
            uint4 piece = make_uint4(0, 0, 0, 0);
            if (tile < p.bags * p.tiles && gene < columns) {
                piece = *reinterpret_cast<const uint4*>(dy + u64(tile / p.tiles) * columns + gene);
                const unsigned bits = p.chosen[(u64(tile) * columns + gene) / 8];
                auto both = [&](unsigned pair) {
                    return (bits >> 2 * pair & 1) * 0xffffu | (bits >> (2 * pair + 1) & 1) * 0xffff0000u;
                };
                piece.x &= both(0), piece.y &= both(1), piece.z &= both(2), piece.w &= both(3);
            }
            *reinterpret_cast<uint4*>(to + Plan::own(j)) = piece;
        }
    }
};

template <class Half, bool TOKENS>
__device__ inline void half_backward(const TopMeanBackward& p) {
    using Scalar = typename Half::Scalar;
    DYN_SHARED(panels);
    const unsigned rows = TOKENS ? p.bags * p.tiles : p.genes, sum = TOKENS ? p.genes : p.bags * p.tiles;
    const unsigned across = (p.width + 127) / 128;
    const unsigned row = blockIdx.x / across * 128, column = blockIdx.x % across * 128;
    const unsigned begin = blockIdx.y * p.each, end = min(begin + p.each, sum);
    ChosenPieces<TOKENS> a(p, row);
    HalfPanel<128, false, 256> b(p.other, 0, column, p.width, begin);
    const u64 start = u64(blockIdx.y) * rows * p.width;
    const Finish<Half> finish{
        static_cast<const Scalar*>(nullptr), nullptr, p.out, nullptr, p.wide != 0, Epilogue{0, 0.0f}};
    const bool fours = p.width % 4 == 0;
    half_tile<Half, 128, 128, 64, 32>(a, b, begin, end, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
        i += row, j += column;
        if (i < rows && j < p.width) finish.some(start + u64(i) * p.width + j, j, p.width, fours, v);
    });
}

struct TopMeanScale {
    const float* dy;  // (bags, genes)
    void* out;        // (bags, columns)
    unsigned bags, genes, columns;
    float scale;
};

template <class Scalar>
__device__ inline void scaled(const TopMeanScale& p) {
    const unsigned i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.bags * p.columns) return;
    const unsigned bag = i / p.columns, gene = i % p.columns;
    const float v = gene < p.genes ? p.dy[u64(bag) * p.genes + gene] * p.scale : 0.0f;
    static_cast<Scalar*>(p.out)[i] = narrowed<Scalar>(v);
}

struct TopMeanChosen {
    const unsigned* chosen;  // (rows, words)
    float* out;              // (rows, genes)
    unsigned elements, genes, words, padding;
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_forward_f32(const __grid_constant__ TopMeanForward p) { forward(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_forward_bf16(const __grid_constant__ TopMeanForward p) { half_forward<Bf16>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_forward_f16(const __grid_constant__ TopMeanForward p) { half_forward<F16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_backward_tokens_f32(const TopMeanBackward p) { backward<true>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_backward_weight_f32(const TopMeanBackward p) { backward<false>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_backward_tokens_bf16(const TopMeanBackward p) { half_backward<Bf16, true>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_backward_weight_bf16(const TopMeanBackward p) { half_backward<Bf16, false>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_backward_tokens_f16(const TopMeanBackward p) { half_backward<F16, true>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_linear_top_mean_backward_weight_f16(const TopMeanBackward p) { half_backward<F16, false>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_backward_scaled_bf16(const TopMeanScale p) { scaled<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_backward_scaled_f16(const TopMeanScale p) { scaled<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_linear_top_mean_backward_chosen_f32(const TopMeanChosen p) {
    const unsigned i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.elements) return;
    const unsigned row = i / p.genes, gene = i % p.genes;
    p.out[i] = float(p.chosen[u64(row) * p.words + gene / 32] >> gene % 32 & 1);
}
