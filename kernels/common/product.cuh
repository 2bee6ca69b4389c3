// Tiles of a product, staged through shared memory and summed in registers.
//
// A block of 256 threads makes a BM x BN tile of C = A B. In steps of BK it
// brings BM x BK of A and BK x BN of B into shared memory; the next step's
// elements travel to registers while this step's are multiplied. A thread owns
// rows ty + 16 i and columns tx + 16 j, so that a warp reads shared memory
// without bank conflicts and writes rows of 16 neighbours. The sum of an element
// runs over k in ascending order, in one register.
#pragma once
#include "common/activation.cuh"
#include "common/arrival.cuh"

namespace eosin {

constexpr int PRODUCT_THREADS = 256, BK = 16;

// Which elements of a B x BK panel a thread brings: the direction in which its
// neighbours lie next to it is that in which the operand does.
template <int B>
struct Panel {
    static constexpr int EACH = B * BK / PRODUCT_THREADS;
    bool along_k;

    // The place along M or N of the thread's j-th element.
    __device__ unsigned across(int j) const {
        return along_k ? threadIdx.x / BK + j * (PRODUCT_THREADS / BK) : threadIdx.x % B;
    }
    // Its place along K.
    __device__ unsigned inner(int j) const {
        return along_k ? threadIdx.x % BK : threadIdx.x / B + j * (PRODUCT_THREADS / B);
    }
};

// A strided matrix: element (i, k) at data[i across + k inner], zeros outside.
template <int B>
struct StridedPanel {
    Panel<B> panel;
    const float* data;
    unsigned start, rows;  // first row of the tile, rows of the matrix
    unsigned across, inner;

    __device__ void fetch(unsigned k0, unsigned k_end, float (&to)[Panel<B>::EACH]) const {
#pragma unroll
        for (int j = 0; j < Panel<B>::EACH; ++j) {
            const unsigned i = start + panel.across(j), k = k0 + panel.inner(j);
            const bool inside = i < rows && k < k_end;
            to[j] = inside ? data[u64(i) * across + u64(k) * inner] : 0.0f;
        }
    }
};

// Sums over k in k_begin .. k_end and hands every element of the tile to
// `store(row in the tile, column in the tile, sum)`. `a` and `b` bring panels.
template <int BM, int BN, class A, class B, class Store>
__device__ inline void product_tile(
    const A& a, const B& b, unsigned k_begin, unsigned k_end, Store store) {
    constexpr int TM = BM / 16, TN = BN / 16;
    SHARED(float, left, [BK][BM + 1]);
    SHARED(float, right, [BK][BN + 1]);
    float from_a[Panel<BM>::EACH], from_b[Panel<BN>::EACH];
    float sums[TM][TN] = {};
    const unsigned tx = threadIdx.x % 16, ty = threadIdx.x / 16;

    a.fetch(k_begin, k_end, from_a);
    b.fetch(k_begin, k_end, from_b);
    for (unsigned k0 = k_begin; k0 < k_end; k0 += BK) {
#pragma unroll
        for (int j = 0; j < Panel<BM>::EACH; ++j)
            left[a.panel.inner(j)][a.panel.across(j)] = from_a[j];
#pragma unroll
        for (int j = 0; j < Panel<BN>::EACH; ++j)
            right[b.panel.inner(j)][b.panel.across(j)] = from_b[j];
        __syncthreads();
        if (k0 + BK < k_end) {
            a.fetch(k0 + BK, k_end, from_a);
            b.fetch(k0 + BK, k_end, from_b);
        }
#pragma unroll
        for (int k = 0; k < BK; ++k) {
            float u[TM], v[TN];
#pragma unroll
            for (int i = 0; i < TM; ++i) u[i] = left[k][ty + 16 * i];
#pragma unroll
            for (int j = 0; j < TN; ++j) v[j] = right[k][tx + 16 * j];
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(u[i], v[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) store(ty + 16 * i, tx + 16 * j, sums[i][j]);
}

// src/ops/matmul/cuda.rs has its twin.
struct ProductParams {
    const float *a, *b, *bias;  // bias (n) or null
    float* out;                 // (parts, batch, m, n)
    float* before;              // as out, the result before the activation, or null
    unsigned m, n, k;
    unsigned each;                   // of k, per part
    unsigned row_a, column_a, row_b, column_b;
    unsigned batch[4];               // sizes, outermost first
    unsigned batch_a[4], batch_b[4]; // strides
    Epilogue epilogue;
};

// Block (tile of a matrix of the batch, part of k).
template <int BM, int BN>
__device__ inline void product(const ProductParams& p) {
    const unsigned down = (p.m + BM - 1) / BM, right = (p.n + BN - 1) / BN;
    unsigned rest = blockIdx.x;
    const unsigned column = rest % right * BN;
    rest /= right;
    const unsigned row = rest % down * BM;
    const unsigned matrix = rest / down;
    rest = matrix;
    u64 at_a = 0, at_b = 0;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
        const unsigned i = rest % p.batch[axis];
        rest /= p.batch[axis];
        at_a += u64(i) * p.batch_a[axis];
        at_b += u64(i) * p.batch_b[axis];
    }
    const StridedPanel<BM> a{
        {p.column_a <= p.row_a}, p.a + at_a, row, p.m, p.row_a, p.column_a};
    const StridedPanel<BN> b{
        {p.row_b < p.column_b}, p.b + at_b, column, p.n, p.column_b, p.row_b};
    const unsigned begin = blockIdx.y * p.each;
    const unsigned end = p.k - begin < p.each ? p.k : begin + p.each;
    const u64 matrices = gridDim.x / (down * right);
    float* out = p.out + (blockIdx.y * matrices + matrix) * (u64(p.m) * p.n);
    const bool whole = gridDim.y == 1;
    product_tile<BM, BN>(a, b, begin, end, [&](unsigned i, unsigned j, float sum) {
        i += row, j += column;
        if (i >= p.m || j >= p.n) return;
        const u64 at = u64(i) * p.n + j;
        if (whole) {
            if (p.bias) sum += p.bias[j];
            if (p.before) p.before[matrix * (u64(p.m) * p.n) + at] = sum;
            sum = p.epilogue(sum);
        }
        out[at] = sum;
    });
}

// src/ops/matmul/cuda.rs has its twin.
struct JoinParams {
    const float *parts, *bias;  // (parts, elements), (n) or null
    float *out, *before;        // before: the result before the activation, or null
    unsigned elements, count, n;
    Epilogue epilogue;
    unsigned padding;
};

// Adds the parts in order.
__device__ inline void join(const JoinParams& p) {
    const unsigned i = blockIdx.x * PRODUCT_THREADS + threadIdx.x;
    if (i >= p.elements) return;
    float sum = 0.0f;
    for (unsigned part = 0; part < p.count; ++part) sum += p.parts[u64(part) * p.elements + i];
    if (p.bias) sum += p.bias[i % p.n];
    if (p.before) p.before[i] = sum;
    p.out[i] = p.epilogue(sum);
}

// src/ops/matmul/gradients.rs has its twin.
struct GradientParams {
    const float *x, *g, *w;  // (m, k), (m, n), (n, k)
    const float* more;       // (m, k) or null, added to gx
    float *gx, *gw, *gb;     // (m, k) or null, (n, k), (n) or null
    float* parts;            // (parts, n, k + 1), the last column that of gb; null for one part
    unsigned* arrivals;
    unsigned m, n, k;
    unsigned each, count;  // rows of a part, parts
    unsigned padding;
};

// What a product y = x w^T has for gradients: gx = g w + more, gw = g^T x and the sums
// gb of the rows of g, all in one launch: blocks for the tiles of gx, then for those of
// gw, part by part, of which the last of a tile adds the parts in order.
template <int BM, int BN>
__device__ inline void product_gradients(const GradientParams& p) {
    const unsigned right = (p.k + BN - 1) / BN, x_tiles = p.gx ? (p.m + BM - 1) / BM * right : 0;
    if (blockIdx.x < x_tiles) {
        const unsigned row = blockIdx.x / right * BM, column = blockIdx.x % right * BN;
        const StridedPanel<BM> a{{true}, p.g, row, p.m, p.n, 1};
        const StridedPanel<BN> b{{false}, p.w, column, p.k, 1, p.k};
        product_tile<BM, BN>(a, b, 0, p.n, [&](unsigned i, unsigned j, float sum) {
            i += row, j += column;
            if (i >= p.m || j >= p.k) return;
            const u64 at = u64(i) * p.k + j;
            p.gx[at] = p.more ? sum + p.more[at] : sum;
        });
        return;
    }
    SHARED(float, lanes, [PRODUCT_THREADS]);
    const unsigned w_tiles = (p.n + BM - 1) / BM * right;
    const unsigned tile = (blockIdx.x - x_tiles) % w_tiles, part = (blockIdx.x - x_tiles) / w_tiles;
    const unsigned row = tile / right * BM, column = tile % right * BN;
    const unsigned begin = part * p.each, end = p.m - begin < p.each ? p.m : begin + p.each;
    const bool whole = p.count == 1;
    const StridedPanel<BM> a{{false}, p.g, row, p.n, 1, p.n};
    const StridedPanel<BN> b{{false}, p.x, column, p.k, 1, p.k};
    // A line of a part has one element more, for gb.
    float* to = whole ? p.gw : p.parts + u64(part) * p.n * (p.k + 1);
    const unsigned line = whole ? p.k : p.k + 1;
    product_tile<BM, BN>(a, b, begin, end, [&](unsigned i, unsigned j, float sum) {
        i += row, j += column;
        if (i < p.n && j < p.k) to[u64(i) * line + j] = sum;
    });
    if (p.gb && column == 0) {
        constexpr unsigned TURNS = PRODUCT_THREADS / BM;
        const unsigned i = row + threadIdx.x % BM;
        float sum = 0.0f;
        if (i < p.n) {
            for (unsigned r = begin + threadIdx.x / BM; r < end; r += TURNS) sum += p.g[u64(r) * p.n + i];
        }
        lanes[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < BM && i < p.n) {
            for (unsigned turn = 1; turn < TURNS; ++turn) sum += lanes[turn * BM + threadIdx.x];
            *(whole ? p.gb + i : to + u64(i) * line + p.k) = sum;
        }
    }
    if (whole || !last_to_arrive(p.arrivals + tile, p.count)) return;
    const auto total = [&](u64 at) {
        float sum = 0.0f;
        for (unsigned i = 0; i < p.count; ++i) sum += p.parts[u64(i) * p.n * line + at];
        return sum;
    };
    for (unsigned e = threadIdx.x; e < BM * BN; e += PRODUCT_THREADS) {
        const unsigned i = row + e / BN, j = column + e % BN;
        if (i < p.n && j < p.k) p.gw[u64(i) * p.k + j] = total(u64(i) * line + j);
    }
    const unsigned i = row + threadIdx.x;
    if (p.gb && column == 0 && threadIdx.x < BM && i < p.n) p.gb[i] = total(u64(i) * line + p.k);
}

}  // namespace eosin
