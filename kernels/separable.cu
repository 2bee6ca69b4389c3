// A linear map of the last two axes that is the product of one sparse map per
// axis: average pooling, padding and resizing.
//
//   y[o, p] = sum over j of B[p, j] (sum over i of A[o, i] x[i, j])
//
// x are images (N, H, W, C) in f32, with C = 1 for planes. A and B are tables
// (common/taps.cuh).
//
// Launch: elements of y / 1024 blocks of 256 threads, rounded up, neighbouring
// threads on neighbouring channels, or columns if C = 1. A thread adds its taps in
// the order of the tables.
//
// Floor: memory. x and y once, 4 bytes an element, if inputs that several outputs
// share are served by the caches.
#include "common/taps.cuh"
#include "common/walk.cuh"

using namespace eosin;

struct Separable {
    float* out;
    const float* x;
    Map rows, columns;
    unsigned channels, elements;
};

extern "C" __global__ void __launch_bounds__(256) eosin_separable_forward_f32(const Separable p) {
    each_element(p.elements, [&](unsigned i) {
        const unsigned channel = i % p.channels, pixel = i / p.channels;
        const unsigned across = pixel % p.columns.outputs, rest = pixel / p.columns.outputs;
        const unsigned down = rest % p.rows.outputs, image = rest / p.rows.outputs;
        const u64 line = u64(p.columns.inputs) * p.channels;
        const float* x = p.x + image * (line * p.rows.inputs) + channel;
        const unsigned top = p.rows.starts[down], bottom = p.rows.starts[down + 1];
        const unsigned left = p.columns.starts[across], right = p.columns.starts[across + 1];

        // -0 is the sum of nothing that leaves every number, -0 included, as it is.
        float total = top < bottom && left < right ? -0.0f : 0.0f;
        if (top < bottom) {
            for (unsigned column = left; column < right; ++column) {
                const Tap b = p.columns.taps[column];
                const float* at = x + u64(b.input) * p.channels;
                float sum = -0.0f;
                for (unsigned row = top; row < bottom; ++row) {
                    const Tap a = p.rows.taps[row];
                    sum += a.weight * at[a.input * line];
                }
                total += b.weight * sum;
            }
        }
        p.out[i] = total;
    });
}
