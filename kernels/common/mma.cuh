// Tiles of a product of 16-bit floats on tensor cores, summed in f32.
//
// A block makes a BM x BN tile of C = A B, each of its warps WM x WN of it by
// mma.sync.m16n8k16. In steps of DEPTH along K it brings BM x DEPTH of A and
// DEPTH x BN of B into shared memory by cp.async; STAGES steps are there or on
// their way at once, so a step's copies have STAGES - 1 steps of time.
//
// Panels. An operand's panel keeps the direction in which its matrix lies: lines
// along K (A row by row, B column by column), or lines across, along M or N.
// ldmatrix turns the latter while it loads (.trans), so all four transpose forms
// are read as they lie. A line is cut into pieces of 8 elements, 16 bytes. Piece
// c of line l lies where piece c ^ swizzle(l) of a plain array would: any 8 rows
// that one 8x8 matrix of ldmatrix asks for lie in 8 different groups of 4 banks,
// and so do 8 neighbouring pieces that cp.async writes.
//
// Copies. A piece travels as one copy of 16 bytes, two of 8 or four of 4, as wide
// as the address and the strides of its operand allow; odd addresses, odd strides
// and strides in both directions go element by element through registers. What is
// past the end of its part of K becomes zero.
//
// The sum of an element runs over k in ascending order in one register, 16 at a
// time; how the hardware adds those 16 is its own, the same every time.
#pragma once
#include "common/activation.cuh"
#include "common/arrival.cuh"
#include "common/half.cuh"
#include "common/ptx.cuh"

namespace eosin {

constexpr int DEPTH = 32, STAGES = 4;

struct Bf16 {
    using Scalar = __nv_bfloat16;
    using Pair = __nv_bfloat162;
    __device__ static Pair pair(float v, float w) { return __floats2bfloat162_rn(v, w); }
    __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        ptx::mma_bf16(d, a, b0, b1);
    }
    template <bool A_ACROSS, bool B_ACROSS, int N>
    __device__ static void wide_multiply(float (&d)[N], uint64_t a, uint64_t b) {
        ptx::wgmma_bf16<A_ACROSS, B_ACROSS>(d, a, b);
    }
};

struct F16 {
    using Scalar = __half;
    using Pair = __half2;
    __device__ static Pair pair(float v, float w) { return __floats2half2_rn(v, w); }
    __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        ptx::mma_f16(d, a, b0, b1);
    }
    template <bool A_ACROSS, bool B_ACROSS, int N>
    __device__ static void wide_multiply(float (&d)[N], uint64_t a, uint64_t b) {
        ptx::wgmma_f16<A_ACROSS, B_ACROSS>(d, a, b);
    }
};

// One operand of a product. src/ops/matmul/tensor_cores.rs has its twin.
struct Operand {
    const unsigned short* data;
    unsigned line, step;  // strides from line to line and along a line
    unsigned width;       // bytes of a copy: 16, 8, 4, or 2 for none but elements
    unsigned batch[4];    // strides of the batch's axes
    unsigned padding;
};

// Starts to bring `held` elements, 0 to 8, and zeros after them to the 16 bytes
// at `to`. With none, `from` is any address of the operand.
__device__ inline void bring_piece(
    unsigned char* to, const unsigned short* from, unsigned held, unsigned step, unsigned width) {
    const int bytes = int(2 * held);
    if (width == 16) {
        ptx::cp_async<16>(to, from, bytes);
    } else if (width == 8) {
#pragma unroll
        for (int at = 0; at < 16; at += 8) {
            const int here = min(max(bytes - at, 0), 8);
            ptx::cp_async<8>(to + at, here > 0 ? from + at / 2 : from, here);
        }
    } else if (width == 4) {
#pragma unroll
        for (int at = 0; at < 16; at += 4) {
            const int here = min(max(bytes - at, 0), 4);
            ptx::cp_async<4>(to + at, here > 0 ? from + at / 2 : from, here);
        }
    } else {
        unsigned words[4] = {};
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) {
            const unsigned value = i < held ? from[u64(i) * step] : 0;
            words[i / 2] |= value << 16 * (i % 2);
        }
        *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// How a panel of B rows (of A) or columns (of B) and DEPTH of K lies in shared
// memory, and which pieces of it a thread brings there.
template <int B, bool ALONG_K, int THREADS>
struct PanelPlan {
    static constexpr int PIECES = ALONG_K ? DEPTH / 8 : B / 8;  // of a line
    static constexpr int BYTES = B * DEPTH * 2;
    // Pieces of a thread, which lie this many lines apart.
    static constexpr int EACH = BYTES / 16 / THREADS, APART = THREADS / PIECES;
    static_assert(APART % 8 == 0, "a thread's pieces are swizzled alike");

    // Which of the panel's lines piece `j` of this thread is of, and where in it.
    __device__ static unsigned line(int j) { return threadIdx.x / PIECES + j * APART; }
    __device__ static unsigned first() { return threadIdx.x % PIECES * 8; }

    // Where piece `c` of line `l` lies.
    __device__ static unsigned place(unsigned l, unsigned c) {
        // Two lines of 64 bytes along K share the 32 banks, so they turn together.
        return (l * PIECES + (c ^ (ALONG_K ? l / 2 % 4 : l % 8))) * 16;
    }

    // What a thread does to its own pieces of a step that are there, before others read
    // them: nothing, in most panels.
    __device__ static void arrived(unsigned char*, unsigned, unsigned) {}

    // Where piece `j` of this thread goes.
    __device__ static unsigned own(int j) { return place(line(0), first() / 8) + j * THREADS * 16; }

    // The fragment of A of 16 rows from `i` and 16 columns from `k`.
    __device__ static void left(uint32_t (&r)[4], const unsigned char* from, unsigned i, unsigned k) {
        const unsigned lane = threadIdx.x % WARP;
        if constexpr (ALONG_K) {
            ptx::ldmatrix_x4(r, from + place(i + lane % 16, k / 8 + lane / 16));
        } else {
            ptx::ldmatrix_x4_trans(
                r, from + place(k + lane % 8 + lane / 16 * 8, i / 8 + lane / 8 % 2));
        }
    }

    // Two fragments of B, of 16 rows from `k` and twice 8 columns from `i`.
    __device__ static void right(uint32_t (&r)[4], const unsigned char* from, unsigned i, unsigned k) {
        const unsigned lane = threadIdx.x % WARP;
        if constexpr (ALONG_K) {
            ptx::ldmatrix_x4(r, from + place(i + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
        } else {
            ptx::ldmatrix_x4_trans(r, from + place(k + lane % 16, i / 8 + lane / 16));
        }
    }
};

// The panel of a matrix with two strides.
template <int B, bool ALONG_K, int THREADS>
struct HalfPanel : PanelPlan<B, ALONG_K, THREADS> {
    using Plan = PanelPlan<B, ALONG_K, THREADS>;

    const Operand& operand;
    const unsigned short* data;  // of this matrix
    unsigned start, end;         // of the tile's rows or columns, of the matrix's
    bool simple;                 // whether steps within K are whole pieces and wide copies
    const unsigned short* next;  // the thread's first piece in the next step, if so

    __device__ HalfPanel(const Operand& operand, u64 matrix, unsigned start, unsigned end, unsigned k)
        : operand(operand), data(operand.data + matrix), start(start), end(end) {
        simple = operand.width == 16 && (ALONG_K || end % 8 == 0);
        next = data + (u64(Plan::line(0) + (ALONG_K ? start : k)) * operand.line + Plan::first() +
                       (ALONG_K ? k : start));
    }

    // Starts to bring the step that begins at `k`. Steps come one after the other.
    __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) {
        if (simple && k + DEPTH <= k_end) {
            // What is outside of the matrix stays what it was: no sum that is
            // written depends on it.
#pragma unroll
            for (int j = 0; j < Plan::EACH; ++j) {
                const bool there = start + (ALONG_K ? Plan::line(j) : Plan::first()) < end;
                if (there) ptx::cp_async<16>(to + Plan::own(j), next + u64(j * Plan::APART) * operand.line);
            }
        } else {
#pragma unroll
            for (int j = 0; j < Plan::EACH; ++j) {
                const unsigned l = Plan::line(j) + (ALONG_K ? start : k);
                const unsigned at = Plan::first() + (ALONG_K ? k : start);
                const unsigned lines = ALONG_K ? end : k_end, most = ALONG_K ? k_end : end;
                const bool any = l < lines && at < most;
                const unsigned held = any ? min(most - at, 8u) : 0;
                const u64 from = u64(l) * operand.line + u64(at) * operand.step;
                bring_piece(to + Plan::own(j), any ? data + from : data, held, operand.step, operand.width);
            }
        }
        next += ALONG_K ? u64(DEPTH) : u64(DEPTH) * operand.line;
    }
};

// What comes after a sum: bias, residual, a copy for the gradient, the activation,
// and the result in the operands' dtype or f32.
template <class Half>
struct Finish {
    using Scalar = typename Half::Scalar;
    const Scalar *bias, *residual;  // of the column, of the element, or null
    void *out, *before;
    bool wide;
    Epilogue epilogue;

    __device__ float sum(float v, u64 at, unsigned column) const {
        if (bias) v += widened(bias[column]);
        if (residual) v += widened(residual[at]);
        return v;
    }
    __device__ void put(void* to, u64 at, float v) const {
        if (wide) static_cast<float*>(to)[at] = v;
        else static_cast<Scalar*>(to)[at] = narrowed<Scalar>(v);
    }
    // `at` is a multiple of 4.
    __device__ void put(void* to, u64 at, const float (&v)[4]) const {
        if (wide) {
            *reinterpret_cast<float4*>(static_cast<float*>(to) + at) = make_float4(v[0], v[1], v[2], v[3]);
        } else {
            struct alignas(8) Four { typename Half::Pair low, high; };
            *reinterpret_cast<Four*>(static_cast<Scalar*>(to) + at) = {Half::pair(v[0], v[1]), Half::pair(v[2], v[3])};
        }
    }
    __device__ void one(u64 at, unsigned column, float v) const {
        v = sum(v, at, column);
        if (before) put(before, at, v);
        put(out, at, epilogue(v));
    }
    __device__ void four(u64 at, unsigned column, float (&v)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = sum(v[i], at + i, column + i);
        if (before) put(before, at, v);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = epilogue(v[i]);
        put(out, at, v);
    }
    // Columns `column` to `column + 3` of a line that ends at `end`; `at` is a
    // multiple of 4 if `fours` says so.
    __device__ void some(u64 at, unsigned column, unsigned end, bool fours, float (&v)[4]) const {
        if (fours) {
            four(at, column, v);
        } else {
#pragma unroll
            for (unsigned e = 0; e < 4; ++e)
                if (column + e < end) one(at + e, column + e, v[e]);
        }
    }
};

// Where the sum of row i and column j of a tile lies, of those that `half_tile`
// leaves in shared memory.
template <int BN>
__device__ inline unsigned sum_place(unsigned i, unsigned j) {
    return i * BN + (j / 8 ^ i % 4) * 8 + j % 8;
}

// The tile of C that `a` and `b`, panels of the tile's rows and columns, have from
// `begin` to `end` of K; `panels` is shared memory for STAGES of both. With all
// sums made, `use(i, j, v)` gets four of row i from column j on, of the tile; all
// of them stay where `sum_place` says in `panels`, f32, for every thread to read.
// A block has BM / WM * BN / WN warps.
template <class Half, int BM, int BN, int WM, int WN, class Left, class Right, class Use>
__device__ inline void half_tile(Left& a, Right& b, unsigned begin, unsigned end, unsigned char* panels, Use use) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    constexpr int TM = WM / 16, TN = WN / 8;
    static_assert(STAGES * (Left::BYTES + Right::BYTES) >= BM * BN * 4, "room for the sums");
    const int steps = int((end - begin + DEPTH - 1) / DEPTH);
    const unsigned warp = threadIdx.x / WARP;
    const unsigned i0 = warp / (BN / WN) * WM, j0 = warp % (BN / WN) * WN;
    float sums[TM][TN][4] = {};
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        if (step >= 0) {
            ptx::cp_async_wait<STAGES - 2>();
            a.arrived(panels + unsigned(step) % STAGES * (Left::BYTES + Right::BYTES), begin + step * DEPTH, end);
            // The step's bytes are everybody's, and nobody reads the stage before it.
            __syncthreads();
        }
        const int ahead = step + STAGES - 1;
        if (ahead < steps) {
            unsigned char* to = panels + unsigned(ahead) % STAGES * (Left::BYTES + Right::BYTES);
            a.bring(to, begin + ahead * DEPTH, end);
            b.bring(to + Left::BYTES, begin + ahead * DEPTH, end);
        }
        // A group for every step, so that the number in flight says which it is.
        ptx::cp_async_commit();
        if (step < 0) continue;
        const unsigned char* left = panels + unsigned(step) % STAGES * (Left::BYTES + Right::BYTES);
        const unsigned char* right = left + Left::BYTES;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t u[TM][4], v[TN / 2][4];
#pragma unroll
            for (int i = 0; i < TM; ++i) Left::left(u[i], left, i0 + 16 * i, k);
#pragma unroll
            for (int j = 0; j < TN / 2; ++j) Right::right(v[j], right, j0 + 16 * j, k);
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j)
                    Half::multiply(sums[i][j], u[i], v[j / 2][j % 2 * 2], v[j / 2][j % 2 * 2 + 1]);
        }
    }

    // The sums change hands, so that a warp writes rows.
    float* shared_sums = reinterpret_cast<float*>(panels);
    const unsigned lane = threadIdx.x % WARP;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<float2*>(
                    shared_sums + sum_place<BN>(i0 + 16 * i + 8 * half + lane / 4, j0 + 8 * j + lane % 4 * 2)) =
                    make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
    __syncthreads();

#pragma unroll 1
    for (unsigned q = threadIdx.x; q < BM * BN / 4; q += THREADS) {
        const unsigned i = q / (BN / 4), j = q % (BN / 4) * 4;
        const float4 held = *reinterpret_cast<const float4*>(shared_sums + sum_place<BN>(i, j));
        float v[4] = {held.x, held.y, held.z, held.w};
        use(i, j, v);
    }
}

// src/ops/matmul/tensor_cores.rs has its twin.
struct HalfProductParams {
    Operand a, b;
    const void* bias;     // (n) of the operands' dtype, or null
    void* out;            // (batch, m, n), or f32 (parts, batch, m, n)
    void* before;         // as out, the result before the activation, or null
    unsigned m, n, k;
    unsigned each;        // of k, per part: a multiple of DEPTH, or all
    unsigned batch[4];    // sizes, outermost first
    unsigned wide;        // whether the result is f32
    unsigned padding;
    Epilogue epilogue;
};

// Tiles are taken in bands of BAND rows of tiles, column by column, so that the
// blocks that run at once share what they read.
constexpr unsigned BAND = 8;

// Rows and columns of tiles of `down` by `across` tiles, in that order.
struct Tile {
    unsigned row, column;
    __device__ Tile(unsigned tile, unsigned down, unsigned across) {
        const unsigned band = tile / (BAND * across) * BAND, in_band = tile % (BAND * across);
        const unsigned rows = min(down - band, BAND);
        row = band + in_band % rows, column = in_band / rows;
    }
};

// Block (tile of a matrix of the batch, part of k), of BM / WM * BN / WN warps.
template <class Half, int BM, int BN, int WM, int WN, bool A_ALONG_K, bool B_ALONG_K>
__device__ inline void half_product(const HalfProductParams& p) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    using Scalar = typename Half::Scalar;
    DYN_SHARED(panels);

    const unsigned down = (p.m + BM - 1) / BM, across = (p.n + BN - 1) / BN;
    const unsigned matrix = blockIdx.x / (down * across);
    const Tile tile(blockIdx.x % (down * across), down, across);
    const unsigned row = tile.row * BM, column = tile.column * BN;
    u64 at_a = 0, at_b = 0;
    unsigned rest = matrix;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
        const unsigned i = rest % p.batch[axis];
        rest /= p.batch[axis];
        at_a += u64(i) * p.a.batch[axis];
        at_b += u64(i) * p.b.batch[axis];
    }
    const unsigned begin = blockIdx.y * p.each;
    const unsigned end = p.k - begin < p.each ? p.k : begin + p.each;
    HalfPanel<BM, A_ALONG_K, THREADS> a(p.a, at_a, row, p.m, begin);
    HalfPanel<BN, B_ALONG_K, THREADS> b(p.b, at_b, column, p.n, begin);

    const u64 matrices = gridDim.x / (down * across);
    const u64 start = (blockIdx.y * matrices + matrix) * (u64(p.m) * p.n);
    // Parts of a sum are written as they are; `half_join` finishes them.
    const bool whole = gridDim.y == 1;
    const Finish<Half> finish{
        whole ? static_cast<const Scalar*>(p.bias) : nullptr, nullptr, p.out, whole ? p.before : nullptr,
        p.wide != 0 || !whole, whole ? p.epilogue : Epilogue{0, 0.0f}};
    const bool fours = p.n % 4 == 0;
    half_tile<Half, BM, BN, WM, WN>(a, b, begin, end, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
        i += row, j += column;
        if (i < p.m && j < p.n) finish.some(start + u64(i) * p.n + j, j, p.n, fours, v);
    });
}

// The two tile sizes: 8 warps of 64 x 32, and 4 warps of 32 x 32.
template <class Half, bool A_ALONG_K, bool B_ALONG_K>
__device__ inline void half_product_128(const HalfProductParams& p) {
    half_product<Half, 128, 128, 64, 32, A_ALONG_K, B_ALONG_K>(p);
}
template <class Half, bool A_ALONG_K, bool B_ALONG_K>
__device__ inline void half_product_64(const HalfProductParams& p) {
    half_product<Half, 64, 64, 32, 32, A_ALONG_K, B_ALONG_K>(p);
}

// src/ops/matmul/tensor_cores.rs has its twin.
struct HalfJoinParams {
    const float* parts;              // (parts, elements)
    const void *bias, *residual;     // (n), (elements), or null
    void *out, *before;              // as in HalfProductParams
    unsigned elements, count, n, wide;
    Epilogue epilogue;
    unsigned line;                   // elements from row to row of the result, of n each
    unsigned padding;
};

// Adds the parts in order; a thread per element.
template <class Half>
__device__ inline void half_join(const HalfJoinParams& p) {
    const unsigned i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.elements) return;
    float sum = 0.0f;
    for (unsigned part = 0; part < p.count; ++part) sum += p.parts[u64(part) * p.elements + i];
    const Finish<Half> finish{
        static_cast<const typename Half::Scalar*>(p.bias), static_cast<const typename Half::Scalar*>(p.residual),
        p.out, p.before, p.wide != 0, p.epilogue};
    finish.one(u64(i / p.n) * p.line + i % p.n, i % p.n, sum);
}

// src/ops/matmul/gradients.rs has its twin.
struct HalfGradientParams {
    Operand x, g, w;      // (m, k), (m, n), (n, k), each read along its rows
    const void* more;     // (m, k) or null, added to gx
    void *gx, *gw, *gb;   // (m, k) or null, (n, k), (n) or null
    float* parts;         // (parts, n, k + 1), the last column that of gb; null for one part
    unsigned* arrivals;
    unsigned m, n, k;
    unsigned each, count;  // rows of a part, parts
    unsigned wide;         // whether gw and gb are f32
};

// As product_gradients of product.cuh.
template <class Half, int BM, int BN, int WM, int WN>
__device__ inline void half_gradients(const HalfGradientParams& p) {
    constexpr int THREADS = BM / WM * (BN / WN) * int(WARP);
    using Scalar = typename Half::Scalar;
    DYN_SHARED(panels);
    const unsigned right = (p.k + BN - 1) / BN, x_tiles = p.gx ? (p.m + BM - 1) / BM * right : 0;
    const bool fours = p.k % 4 == 0;
    if (blockIdx.x < x_tiles) {
        const unsigned row = blockIdx.x / right * BM, column = blockIdx.x % right * BN;
        HalfPanel<BM, true, THREADS> a(p.g, 0, row, p.m, 0);
        HalfPanel<BN, false, THREADS> b(p.w, 0, column, p.k, 0);
        const Finish<Half> finish{nullptr, static_cast<const Scalar*>(p.more), p.gx, nullptr, false, Epilogue{0, 0.0f}};
        half_tile<Half, BM, BN, WM, WN>(a, b, 0, p.n, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
            i += row, j += column;
            if (i < p.m && j < p.k) finish.some(u64(i) * p.k + j, j, p.k, fours, v);
        });
        return;
    }
    const unsigned w_tiles = (p.n + BM - 1) / BM * right;
    const unsigned tile = (blockIdx.x - x_tiles) % w_tiles, part = (blockIdx.x - x_tiles) / w_tiles;
    const unsigned row = tile / right * BM, column = tile % right * BN;
    const unsigned begin = min(part * p.each, p.m), end = min(begin + p.each, p.m);
    const bool whole = p.count == 1;
    HalfPanel<BM, false, THREADS> a(p.g, 0, row, p.n, begin);
    HalfPanel<BN, false, THREADS> b(p.x, 0, column, p.k, begin);
    // A line of a part has one element more, for gb.
    const unsigned line = whole ? p.k : p.k + 1;
    float* to = whole ? nullptr : p.parts + u64(part) * p.n * line;
    const Finish<Half> finish{
        nullptr, nullptr, whole ? p.gw : static_cast<void*>(to), nullptr, !whole || p.wide, Epilogue{0, 0.0f}};
    half_tile<Half, BM, BN, WM, WN>(a, b, begin, end, panels, [&](unsigned i, unsigned j, float (&v)[4]) {
        i += row, j += column;
        if (i < p.n && j < p.k) finish.some(u64(i) * line + j, j, p.k, fours && whole, v);
    });
    if (p.gb && column == 0) {
        constexpr unsigned TURNS = THREADS / BM;
        float* lanes = reinterpret_cast<float*>(panels);
        const unsigned i = row + threadIdx.x % BM;
        float sum = 0.0f;
        if (i < p.n) {
            const auto* g = reinterpret_cast<const Scalar*>(p.g.data);
            for (unsigned r = begin + threadIdx.x / BM; r < end; r += TURNS) sum += widened(g[u64(r) * p.n + i]);
        }
        // The panels held the tile's sums.
        __syncthreads();
        lanes[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x < BM && i < p.n) {
            for (unsigned turn = 1; turn < TURNS; ++turn) sum += lanes[turn * BM + threadIdx.x];
            if (whole)
                finish.put(p.gb, i, sum);
            else
                to[u64(i) * line + p.k] = sum;
        }
    }
    if (whole || !last_to_arrive(p.arrivals + tile, p.count)) return;
    const auto total = [&](u64 at) {
        float sum = 0.0f;
        for (unsigned i = 0; i < p.count; ++i) sum += p.parts[u64(i) * p.n * line + at];
        return sum;
    };
    const Finish<Half> last{nullptr, nullptr, nullptr, nullptr, p.wide != 0, Epilogue{0, 0.0f}};
    for (unsigned e = threadIdx.x; e < BM * BN; e += THREADS) {
        const unsigned i = row + e / BN, j = column + e % BN;
        if (i < p.n && j < p.k) last.put(p.gw, u64(i) * p.k + j, total(u64(i) * line + j));
    }
    const unsigned i = row + threadIdx.x;
    if (p.gb && column == 0 && threadIdx.x < BM && i < p.n) last.put(p.gb, i, total(u64(i) * line + p.k));
}

}  // namespace eosin
