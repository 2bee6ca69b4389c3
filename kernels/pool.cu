// Pooling of images held as (N, H, W, C), with C = 1 for planes; f32, bf16, f16.
//
//   mean:    y[o, c] = the mean over the window of relu(scale[c] x + shift[c]), scale and
//            shift (C) f32: what is left of a batch norm; y of x's dtype or f32
//   max:     y[o, p] = the largest of the window, NaN if there is one
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
// Floor: memory. Each operand once, if overlapping windows
// are served by the caches.
#include "common/activation.cuh"
#include "common/half.cuh"
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

// Where element `i` of images of `rows` by `columns` lies.
struct Element {
    unsigned channel, across, down, image;

    __device__ Element(unsigned i, unsigned channels, unsigned rows, unsigned columns) {
        const unsigned pixel = i / channels, rest = pixel / columns;
        channel = i % channels, across = pixel % columns, down = rest % rows, image = rest / rows;
    }
};

struct PoolMax {
    void* out;
    const void* x;
    Geometry geometry;
};

struct PoolMean {
    void* out;  // f32 if `wide`
    const void* x;
    const float *scale, *shift;
    Geometry geometry;
    unsigned wide, padding;
};

struct PoolPlaces {
    int* out;
    const void* x;
    Geometry geometry;
};

struct PoolPick {
    void* out;
    const void* x;
    const int* places;
    Geometry geometry;
};

struct PoolPut {
    void* out;
    const void* y;
    const int* places;
    Geometry geometry;
};

// Whether a maximum goes over to a later value: it keeps the first of equals and
// of NaNs.
__device__ bool beats(float later, float best) {
    return later > best || (isnan(later) && !isnan(best));
}

// Windows do not reach over the image. Pixels are added in row-major order.
template <class T>
__device__ void mean(const PoolMean& p) {
    const Geometry& g = p.geometry;
    each_element(g.elements, [&](unsigned i) {
        const Element at(i, g.channels, g.rows.outputs, g.columns.outputs);
        const unsigned top = g.rows.begin(at.down), bottom = g.rows.end(at.down);
        const unsigned left = g.columns.begin(at.across), right = g.columns.end(at.across);
        const float scale = p.scale[at.channel], shift = p.shift[at.channel];
        float sum = 0.0f;
        for (unsigned row = top; row < bottom; ++row) {
            const u64 line = (u64(at.image) * g.rows.inputs + row) * g.columns.inputs;
            for (unsigned column = left; column < right; ++column)
                sum += eosin::activated(widened(static_cast<const T*>(p.x)[(line + column) * g.channels + at.channel]), scale, shift);
        }
        const float v = sum / float((bottom - top) * (right - left));
        if (p.wide) static_cast<float*>(p.out)[i] = v;
        else static_cast<T*>(p.out)[i] = narrowed<T>(v);
    });
}

struct Best {
    float value;
    int place;
};

// The first maximum of the window of output element `i`.
template <class T>
__device__ Best first_maximum(const void* images, const Geometry& p, unsigned i) {
    const Element at(i, p.channels, p.rows.outputs, p.columns.outputs);
    const unsigned top = p.rows.begin(at.down), bottom = p.rows.end(at.down);
    const unsigned left = p.columns.begin(at.across), right = p.columns.end(at.across);
    const T* x = static_cast<const T*>(images) + u64(at.image) * p.rows.inputs * p.columns.inputs * p.channels + at.channel;

    // The window's own first place, for when nothing in it is above minus infinity.
    Best best{-INFINITY, int(top * p.columns.inputs + left)};
    for (unsigned row = top; row < bottom; ++row) {
        for (unsigned column = left; column < right; ++column) {
            const unsigned place = row * p.columns.inputs + column;
            const float v = widened(x[u64(place) * p.channels]);
            if (beats(v, best.value)) best = {v, int(place)};
        }
    }
    return best;
}

template <class T>
__device__ void max_pool(const PoolMax& p) {
    each_element(p.geometry.elements, [&](unsigned i) { static_cast<T*>(p.out)[i] = narrowed<T>(first_maximum<T>(p.x, p.geometry, i).value); });
}

template <class T>
__device__ void places(const PoolPlaces& p) {
    each_element(p.geometry.elements, [&](unsigned i) { p.out[i] = first_maximum<T>(p.x, p.geometry, i).place; });
}

template <class T>
__device__ void pick(const PoolPick& p) {
    const Geometry& g = p.geometry;
    each_element(g.elements, [&](unsigned i) {
        const unsigned channel = i % g.channels;
        const unsigned image = i / g.channels / (g.rows.outputs * g.columns.outputs);
        const u64 pixel = u64(image) * g.rows.inputs * g.columns.inputs + unsigned(p.places[i]);
        static_cast<T*>(p.out)[i] = static_cast<const T*>(p.x)[pixel * g.channels + channel];
    });
}

template <class T>
__device__ void put(const PoolPut& p) {
    const Geometry& g = p.geometry;
    each_element(g.elements, [&](unsigned i) {
        const Element own(i, g.channels, g.rows.inputs, g.columns.inputs);
        const int here = int(own.down * g.columns.inputs + own.across);
        const unsigned bottom = g.rows.last(own.down), right = g.columns.last(own.across);
        float sum = 0.0f;
        for (unsigned row = g.rows.first(own.down); row < bottom; ++row) {
            for (unsigned column = g.columns.first(own.across); column < right; ++column) {
                const u64 window = (u64(own.image) * g.rows.outputs + row) * g.columns.outputs + column;
                const u64 at = window * g.channels + own.channel;
                if (p.places[at] == here) sum += widened(static_cast<const T*>(p.y)[at]);
            }
        }
        static_cast<T*>(p.out)[i] = narrowed<T>(sum);
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_activated_avg_pool2d_forward_f32(const PoolMean p) { mean<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_f32(const PoolMax p) { max_pool<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_places_f32(const PoolPlaces p) { places<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_pick_f32(const PoolPick p) { pick<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_backward_put_f32(const PoolPut p) { put<float>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_activated_avg_pool2d_forward_bf16(const PoolMean p) { mean<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_bf16(const PoolMax p) { max_pool<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_places_bf16(const PoolPlaces p) { places<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_pick_bf16(const PoolPick p) { pick<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_backward_put_bf16(const PoolPut p) { put<__nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_activated_avg_pool2d_forward_f16(const PoolMean p) { mean<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_f16(const PoolMax p) { max_pool<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_places_f16(const PoolPlaces p) { places<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_forward_pick_f16(const PoolPick p) { pick<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_max_pool2d_backward_put_f16(const PoolPut p) { put<__half>(p); }
