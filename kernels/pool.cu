// Maximum pooling of images held as (N, H, W, C), with C = 1 for planes.
//
//   max:     y[o, p] = the largest of the window, NaN if there is one; f32
//   places:  the flat place y W + x of the window's first maximum; i32
//   pick:    the values at given places
//   put:     the transpose of pick, planes with values added at their places
//
// A window covers kernel inputs from o * stride - padding on, those outside the
// image left out. put gathers: each input looks through the windows that cover
// it, in row-major order, and adds those whose place it is. So no two threads
// write to one place, and the order of a sum is fixed.
//
// Launch: elements of the result / 1024 blocks of 256 threads, rounded up,
// neighbouring threads on neighbouring channels, or columns if C = 1.
//
// Floor: memory. Each operand once, 4 bytes an element, if overlapping windows
// are served by the caches.
#include "common/base.cuh"
#include "common/walk.cuh"

using namespace eosin;

// The windows along one axis; src/ops/pool/cuda.rs has the twin.
struct Windows {
    unsigned inputs, outputs, kernel, stride, padding;

    __device__ unsigned begin(unsigned o) const {
        const unsigned start = o * stride;
        return start > padding ? start - padding : 0;
    }
    __device__ unsigned end(unsigned o) const { return min(o * stride + kernel - padding, inputs); }

    // The windows that cover input `i`: from `first` to before `last`.
    __device__ unsigned first(unsigned i) const {
        const unsigned reached = i + padding + 1;
        return reached > kernel ? (reached - kernel + stride - 1) / stride : 0;
    }
    __device__ unsigned last(unsigned i) const { return min((i + padding) / stride + 1, outputs); }
};

struct Geometry {
    Windows rows, columns;
    unsigned channels, elements;  // elements of the result
};

struct PoolMax {
    float* out;
    const float* x;
    Geometry geometry;
};

struct PoolPlaces {
    int* out;
    const float* x;
    Geometry geometry;
};

struct PoolPick {
    float* out;
    const float* x;
    const int* places;
    Geometry geometry;
};

struct PoolPut {
    float* out;
    const float* y;
    const int* places;
    Geometry geometry;
};

// Whether a maximum goes over to a later value: it keeps the first of equals and
// of NaNs.
__device__ bool beats(float later, float best) {
    return later > best || (isnan(later) && !isnan(best));
}

struct Best {
    float value;
    int place;
};

// The first maximum of the window of output element `i`.
__device__ Best first_maximum(const float* x, const Geometry& p, unsigned i) {
    const unsigned channel = i % p.channels, pixel = i / p.channels;
    const unsigned across = pixel % p.columns.outputs, rest = pixel / p.columns.outputs;
    const unsigned down = rest % p.rows.outputs, image = rest / p.rows.outputs;
    const unsigned top = p.rows.begin(down), bottom = p.rows.end(down);
    const unsigned left = p.columns.begin(across), right = p.columns.end(across);
    x += u64(image) * p.rows.inputs * p.columns.inputs * p.channels + channel;

    // The window's own first place, for when nothing in it is above minus infinity.
    Best best{-INFINITY, int(top * p.columns.inputs + left)};
    for (unsigned row = top; row < bottom; ++row) {
        for (unsigned column = left; column < right; ++column) {
            const unsigned place = row * p.columns.inputs + column;
            const float v = x[u64(place) * p.channels];
            if (beats(v, best.value)) best = {v, int(place)};
        }
    }
    return best;
}

extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_f32(const PoolMax p) {
    each_element(p.geometry.elements, [&](unsigned i) { p.out[i] = first_maximum(p.x, p.geometry, i).value; });
}

extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_places_f32(const PoolPlaces p) {
    each_element(p.geometry.elements, [&](unsigned i) { p.out[i] = first_maximum(p.x, p.geometry, i).place; });
}

extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_pick_f32(const PoolPick p) {
    const Geometry& g = p.geometry;
    each_element(g.elements, [&](unsigned i) {
        const unsigned channel = i % g.channels;
        const unsigned image = i / g.channels / (g.rows.outputs * g.columns.outputs);
        const u64 pixel = u64(image) * g.rows.inputs * g.columns.inputs + unsigned(p.places[i]);
        p.out[i] = p.x[pixel * g.channels + channel];
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_backward_put_f32(const PoolPut p) {
    const Geometry& g = p.geometry;
    each_element(g.elements, [&](unsigned i) {
        const unsigned channel = i % g.channels, pixel = i / g.channels;
        const unsigned across = pixel % g.columns.inputs, rest = pixel / g.columns.inputs;
        const unsigned down = rest % g.rows.inputs, image = rest / g.rows.inputs;
        const int here = int(down * g.columns.inputs + across);
        const unsigned bottom = g.rows.last(down), right = g.columns.last(across);
        float sum = 0.0f;
        for (unsigned row = g.rows.first(down); row < bottom; ++row) {
            for (unsigned column = g.columns.first(across); column < right; ++column) {
                const u64 window = (u64(image) * g.rows.outputs + row) * g.columns.outputs + column;
                const u64 at = window * g.channels + channel;
                if (p.places[at] == here) sum += p.y[at];
            }
        }
        p.out[i] = sum;
    });
}
