// batch_norm of a dense outer x channels x inner tensor, f32, bf16 or f16:
//
//   y = (x - mean) s w + b with s = 1 / sqrt(var + eps),
//   dx = (g - mean(g) - (x - mean) s mean(g (x - mean) s)) s w,
//   dw = sum of g (x - mean) s, db = sum of g.
//
// Per channel: mean, s, the variance divided by n - 1; weight and bias (channels)
// or null, for 1 and 0; all of these are f32.
//
// Statistics: each thread adds the differences from its own first value, and its
// count, mean and sum of squared deviations are joined with the others' by the
// formula of Chan, Golub and LeVeque (1983). Means are held as differences from
// the channel's first value. So neither a mean far from 0 nor a first value far
// from the mean cancels the variance away.
//
// Launch: the two stages of common/columns.cuh for sums, then elements / 1024
// blocks of 256 threads for y or dx. Every sum has a fixed order.
//
// Floor: memory. In training x is read twice and y written, 12 bytes an element of f32;
// backward reads g and x twice and writes dx, 20 bytes; evaluation 8. bf16 and f16
// are half of that.
#include "common/columns.cuh"
#include "common/half.cuh"
#include "common/walk.cuh"

using namespace eosin;

struct Moments {
    float count;
    float mean;     // less the channel's first value
    float scatter;  // sum of squared deviations from the mean

    __device__ static Moments none() { return {0.0f, 0.0f, 0.0f}; }

    __device__ Moments with(const Moments& o) const {
        const float n = count + o.count;
        if (n == 0.0f) return *this;
        const float d = o.mean - mean, share = o.count / n;
        return {n, mean + d * share, scatter + o.scatter + d * d * (count * share)};
    }
};

struct BatchNormMoments {
    Moments* parts;
    const void* x;
    Columns columns;
};

struct BatchNormStatistics {
    float* mean;
    float* scale;
    float* var;
    const Moments* parts;
    const void* x;
    Columns columns;
    float eps;
    unsigned padding;
};

struct BatchNormOutput {
    void* out;
    const void* x;
    const float* mean;
    const float* scale;
    const float* weight;
    const float* bias;
    Columns columns;
    unsigned elements, padding;
};

struct BatchNormParts {
    Pair* parts;
    const void* g;
    const void* x;
    const float* mean;
    Columns columns;
};

struct BatchNormTotal {
    float* weight_gradient;
    float* bias_gradient;
    const Pair* parts;
    const float* scale;
    Columns columns;
};

struct BatchNormBackward {
    void* out;
    const void* g;
    const void* x;
    const float* mean;
    const float* scale;
    const float* weight;
    const float* weight_gradient;
    const float* bias_gradient;
    Columns columns;
    unsigned elements, padding;
};

template <class T>
__device__ void moments(const BatchNormMoments& p) {
    const T* x = static_cast<const T*>(p.x);
    SHARED(Moments, lanes, [256]);
    const Columns& c = p.columns;
    sum_part(c, lanes, p.parts, [&](unsigned channel, unsigned first, unsigned end, unsigned step) {
        if (first >= end) return Moments::none();
        const float base = widened(x[c.place(channel, first)]);
        float sum = 0.0f, squares = 0.0f, n = 0.0f;
        for (unsigned e = first; e < end; e += step) {
            const float u = widened(x[c.place(channel, e)]) - base;
            sum += u;
            squares += u * u;
            n += 1.0f;
        }
        const float mean = sum / n;
        return Moments{n, (base - widened(x[c.place(channel, 0)])) + mean, squares - sum * mean};
    });
}

template <class T>
__device__ void statistics(const BatchNormStatistics& p) {
    const T* x = static_cast<const T*>(p.x);
    SHARED(Moments, lanes, [256]);
    const Columns& c = p.columns;
    sum_total(c, lanes, p.parts, [&](unsigned channel, Moments sum) {
        const float n = float(c.elements);
        // Not fmaxf, which would turn NaN into 0.
        const float scatter = sum.scatter < 0.0f ? 0.0f : sum.scatter;
        p.mean[channel] = widened(x[c.place(channel, 0)]) + sum.mean;
        p.scale[channel] = 1.0f / sqrtf(scatter / n + p.eps);
        p.var[channel] = scatter / (n - 1.0f);
    });
}

template <class T>
__device__ void normalise(const BatchNormOutput& p) {
    const T* x = static_cast<const T*>(p.x);
    T* out = static_cast<T*>(p.out);
    each_element(p.elements, [&](unsigned i) {
        const unsigned c = p.columns.channel(i);
        const float scale = p.weight ? p.scale[c] * p.weight[c] : p.scale[c];
        const float bias = p.bias ? p.bias[c] : 0.0f;
        out[i] = narrowed<T>((widened(x[i]) - p.mean[c]) * scale + bias);
    });
}

// Sums of g (x - mean) and g.
template <class T>
__device__ void backward_parts(const BatchNormParts& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* g = static_cast<const T*>(p.g);
    SHARED(Pair, lanes, [256]);
    const Columns& c = p.columns;
    sum_part(c, lanes, p.parts, [&](unsigned channel, unsigned first, unsigned end, unsigned step) {
        Pair sum = Pair::none();
        const float mean = p.mean[channel];
        for (unsigned e = first; e < end; e += step) {
            const u64 at = c.place(channel, e);
            sum.a += widened(g[at]) * (widened(x[at]) - mean);
            sum.b += widened(g[at]);
        }
        return sum;
    });
}

template <class T>
__device__ void backward(const BatchNormBackward& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* g = static_cast<const T*>(p.g);
    T* out = static_cast<T*>(p.out);
    const float n = float(p.columns.elements);
    each_element(p.elements, [&](unsigned i) {
        const unsigned c = p.columns.channel(i);
        const float scale = p.scale[c];
        const float factor = p.weight ? scale * p.weight[c] : scale;
        const float plain = p.bias_gradient[c] / n, slope = p.weight_gradient[c] * scale / n;
        out[i] = narrowed<T>((widened(g[i]) - plain - (widened(x[i]) - p.mean[c]) * slope) * factor);
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_total_f32(const BatchNormTotal p) {
    SHARED(Pair, lanes, [256]);
    sum_total(p.columns, lanes, p.parts, [&](unsigned channel, Pair sum) {
        p.weight_gradient[channel] = sum.a * p.scale[channel];
        p.bias_gradient[channel] = sum.b;
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_parts_f32(const BatchNormMoments p) { moments<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_total_f32(const BatchNormStatistics p) { statistics<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_f32(const BatchNormOutput p) { normalise<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_parts_f32(const BatchNormParts p) { backward_parts<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_f32(const BatchNormBackward p) { backward<float>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_parts_bf16(const BatchNormMoments p) { moments<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_total_bf16(const BatchNormStatistics p) { statistics<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_bf16(const BatchNormOutput p) { normalise<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_parts_bf16(const BatchNormParts p) { backward_parts<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_bf16(const BatchNormBackward p) { backward<__nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_parts_f16(const BatchNormMoments p) { moments<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_total_f16(const BatchNormStatistics p) { statistics<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_f16(const BatchNormOutput p) { normalise<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_parts_f16(const BatchNormParts p) { backward_parts<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_f16(const BatchNormBackward p) { backward<__half>(p); }
