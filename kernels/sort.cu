// The order of each row of an f32 matrix: the indices (i64) of its elements from
// the first to the count-th. NaN is the largest, -0 equals 0, and of equal
// values the lower index comes first in either direction. topk shares it.
//
// Value and index make one 64-bit key; no two are equal, so any way of sorting
// gives the same order.
//   tile   sorts up to 4,096 keys of a row in shared memory (bitonic). For a row
//          of one tile it writes the indices, for a longer one the keys.
//   merge  merges neighbouring runs of sorted keys into runs of twice the length
//          from one buffer into another; each key finds its place by counting
//          the smaller ones of the other run.
//   index  writes the indices of the first keys of each row.
//
// Launch: 256 threads. tile: rows x tiles blocks with 8 bytes of shared memory
// per key of a tile; merge and index: elements / 1024 blocks rounded up.
// Floor: memory bandwidth for a row of one tile; longer rows pass through memory
// once per doubling.
#include "common/order.cuh"
#include "common/walk.cuh"

namespace eosin {

// Kernels take these as __grid_constant__, so that nothing of them goes through
// the stack.
struct TileParams {
    const float* x;
    u64* keys;             // of every row, or null
    i64* index;            // used where keys is null
    unsigned size, count;  // of a row
    unsigned width;        // keys in shared memory, a power of two
    unsigned descending;
    Walk walk;             // over the rows in row-major order
};

__device__ inline void sort_tile(const TileParams& p) {
    DYN_SHARED(bytes);
    u64* tile = reinterpret_cast<u64*>(bytes);
    const unsigned row = blockIdx.x, first = blockIdx.y * p.width;
    for (unsigned i = threadIdx.x; i < p.width; i += 256) {
        u64 key = ~0ull;  // above every other
        if (first + i < p.size) {
            unsigned rank = rank_of(p.x[p.walk.place(0, row * p.size + first + i)]);
            if (p.descending) rank = ~rank;
            key = u64(rank) << 32 | (first + i);
        }
        tile[i] = key;
    }
    __syncthreads();
    for (unsigned run = 2; run <= p.width; run *= 2) {
        for (unsigned step = run / 2; step > 0; step /= 2) {
            for (unsigned pair = threadIdx.x; pair < p.width / 2; pair += 256) {
                const unsigned low = pair / step * step * 2 + pair % step, high = low + step;
                const u64 a = tile[low], b = tile[high];
                const bool rising = (low & run) == 0;
                if ((a > b) == rising) {
                    tile[low] = b;
                    tile[high] = a;
                }
            }
            __syncthreads();
        }
    }
    for (unsigned i = threadIdx.x; i < p.width; i += 256) {
        if (p.keys != nullptr) {
            if (first + i < p.size) p.keys[u64(row) * p.size + first + i] = tile[i];
        } else if (i < p.count) {
            p.index[u64(row) * p.count + i] = i64(tile[i] & 0xffffffffu);
        }
    }
}

struct MergeParams {
    const u64* from;
    u64* to;
    unsigned elements;  // of all rows
    unsigned size;      // of a row
    unsigned run;       // keys that are in order already
    unsigned padding;
};

__device__ inline void merge_runs(const MergeParams& p) {
    each_element(p.elements, [&](unsigned i) {
        const unsigned at = i % p.size;
        const u64* row = p.from + (i - at);
        const unsigned own = at / p.run, other = own ^ 1u;
        const u64 begin = u64(other) * p.run;
        u64 low = begin < p.size ? begin : p.size;
        u64 high = begin + p.run < p.size ? begin + p.run : p.size;
        const u64 key = row[at], start = low;
        while (low < high) {
            const u64 middle = (low + high) / 2;
            if (row[middle] < key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        const u64 pair = u64(own / 2) * 2 * p.run;
        p.to[(i - at) + pair + at % p.run + (low - start)] = key;
    });
}

struct IndexParams {
    const u64* keys;
    i64* index;
    unsigned elements;  // of the result
    unsigned size, count;
    unsigned padding;
};

__device__ inline void write_index(const IndexParams& p) {
    each_element(p.elements, [&](unsigned i) {
        const unsigned row = i / p.count;
        p.index[i] = i64(p.keys[u64(row) * p.size + i % p.count] & 0xffffffffu);
    });
}

}  // namespace eosin

extern "C" __global__ void __launch_bounds__(256) eosin_sort_forward_tile_f32(const __grid_constant__ eosin::TileParams p) { eosin::sort_tile(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sort_forward_merge_b8(const __grid_constant__ eosin::MergeParams p) { eosin::merge_runs(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_sort_forward_index_b8(const __grid_constant__ eosin::IndexParams p) { eosin::write_index(p); }
