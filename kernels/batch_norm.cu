// batch_norm of a dense outer x channels x inner tensor, f32, bf16 or f16, with an
// activation before it and a residual after it, or none:
//
//   y = (a - mean) s w + b + residual with a = f(x), s = 1 / sqrt(var + eps), mean and
//   var those of a,
//   dx = (g - mean(g) - (a - mean) s mean(g (a - mean) s)) s w f'(x),
//   dw = sum of g (a - mean) s, db = sum of g.
//
// Per channel: mean, s, the variance divided by n - 1; weight and bias (channels)
// or null, for 1 and 0; all of these are f32. Training moves running statistics
// towards those of the batch, and counts it, if it is given them.
//
// Statistics: each thread adds the differences from its own first value, and its
// count, mean and sum of squared deviations are joined with the others' (moments.cuh).
// Means are held as differences from the channel's first value. So neither a mean far
// from 0 nor a first value far from the mean cancels the variance away. Or the
// convolution that made x left them (`total` joins its parts, of which the means are
// whole), and x is read once less.
//
// Launch: the sums of common/columns.cuh, then elements / 1024 blocks of 256 threads
// for y or dx; two launches forward and two backward. `total`: channels / 8 blocks. Every sum has a fixed order.
//
// Floor: memory. In training x is read twice and y written, 12 bytes an element of f32;
// backward reads g and x twice and writes dx, 20 bytes; evaluation 8. bf16 and f16
// are half of that. The activation is computed again wherever x is read, and so
// neither stored nor launched; a residual adds its bytes. In evaluation s is computed from
// the running variance by each thread, so that a norm is one launch.
#include "common/activation.cuh"
#include "common/columns.cuh"
#include "common/half.cuh"
#include "common/moments.cuh"
#include "common/walk.cuh"

using namespace eosin;

struct BatchNormStatistics {
    float* mean;
    float* scale;
    float* var;
    float* running_mean;  // or null, and then the next two
    float* running_var;
    i64* batches;
    Moments* parts;
    const void* x;
    unsigned* arrivals;
    Columns columns;
    float eps, momentum;
    Epilogue before;
};

struct BatchNormOutput {
    void* out;
    const void* x;
    const void* residual;  // or null
    const float* mean;
    const float* scale;    // or the variance, where eps is not negative
    const float* weight;
    const float* bias;
    Columns columns;
    Epilogue before;
    unsigned elements;
    float eps;
};

struct BatchNormSums {
    float* weight_gradient;
    float* bias_gradient;
    Pair* parts;
    const void* g;
    const void* x;
    const float* mean;
    const float* scale;
    unsigned* arrivals;
    Columns columns;
    Epilogue before;
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
    Epilogue before;
    unsigned elements, padding;
};

// What is known of a channel once its parts are joined.
__device__ inline void conclude(const BatchNormStatistics& p, unsigned channel, float mean, float scatter) {
    const float n = float(p.columns.elements);
    // Not fmaxf, which would turn NaN into 0.
    if (scatter < 0.0f) scatter = 0.0f;
    const float var = scatter / (n - 1.0f);
    p.mean[channel] = mean;
    p.scale[channel] = 1.0f / sqrtf(scatter / n + p.eps);
    p.var[channel] = var;
    if (!p.running_mean) return;
    const float kept = 1.0f - p.momentum;
    p.running_mean[channel] = p.running_mean[channel] * kept + mean * p.momentum;
    p.running_var[channel] = p.running_var[channel] * kept + var * p.momentum;
    if (channel == 0) *p.batches += 1;
}

template <class T>
__device__ void statistics(const BatchNormStatistics& p) {
    const T* x = static_cast<const T*>(p.x);
    SHARED(Moments, lanes, [256]);
    const Columns& c = p.columns;
    const auto value = [&](unsigned channel, unsigned e) { return p.before(widened(x[c.place(channel, e)])); };
    const auto of_part = [&](unsigned channel, unsigned first, unsigned end, unsigned step) {
        Gathered own;
        for (unsigned e = first; e < end; e += step) own.add(value(channel, e));
        Moments of = own.moments();
        // Less the channel's first value, without adding `base` before.
        if (of.count > 0.0f) of.mean = (own.base - value(channel, 0)) + own.sum / own.count;
        return of;
    };
    sum_columns(c, blockIdx.x, p.arrivals, lanes, p.parts, of_part, [&](unsigned channel, Moments sum) {
        conclude(p, channel, value(channel, 0) + sum.mean, sum.scatter);
    });
}

// Joins the parts that a convolution left: 32 threads for each of 8 channels.
__device__ inline void total(const BatchNormStatistics& p) {
    constexpr unsigned WIDTH = 8;
    SHARED(Moments, lanes, [256]);
    const Columns& c = p.columns;
    const unsigned channel = blockIdx.x * WIDTH + threadIdx.x % WIDTH;
    Moments sum = Moments::none();
    if (channel < c.channels) {
        for (unsigned i = threadIdx.x / WIDTH; i < c.parts; i += 256 / WIDTH)
            sum = sum.with(p.parts[u64(i) * c.channels + channel]);
    }
    sum = joined(sum, lanes, WIDTH);
    if (threadIdx.x < WIDTH && channel < c.channels) conclude(p, channel, sum.mean, sum.scatter);
}

template <class T>
__device__ void normalise(const BatchNormOutput& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* residual = static_cast<const T*>(p.residual);
    T* out = static_cast<T*>(p.out);
    each_element(p.elements, [&](unsigned i) {
        const unsigned c = p.columns.channel(i);
        const float s = p.eps < 0.0f ? p.scale[c] : 1.0f / sqrtf(p.scale[c] + p.eps);
        const float scale = p.weight ? s * p.weight[c] : s;
        const float bias = p.bias ? p.bias[c] : 0.0f;
        const float y = (p.before(widened(x[i])) - p.mean[c]) * scale + bias;
        out[i] = narrowed<T>(residual ? y + widened(residual[i]) : y);
    });
}

// Sums of g (a - mean) and g.
template <class T>
__device__ void backward_sums(const BatchNormSums& p) {
    const T* x = static_cast<const T*>(p.x);
    const T* g = static_cast<const T*>(p.g);
    SHARED(Pair, lanes, [256]);
    const Columns& c = p.columns;
    const auto of_part = [&](unsigned channel, unsigned first, unsigned end, unsigned step) {
        Pair sum = Pair::none();
        const float mean = p.mean[channel];
        for (unsigned e = first; e < end; e += step) {
            const u64 at = c.place(channel, e);
            sum.a += widened(g[at]) * (p.before(widened(x[at])) - mean);
            sum.b += widened(g[at]);
        }
        return sum;
    };
    sum_columns(c, blockIdx.x, p.arrivals, lanes, p.parts, of_part, [&](unsigned channel, Pair sum) {
        p.weight_gradient[channel] = sum.a * p.scale[channel];
        p.bias_gradient[channel] = sum.b;
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
        const float scale = p.scale[c], v = widened(x[i]);
        const float factor = p.weight ? scale * p.weight[c] : scale;
        const float plain = p.bias_gradient[c] / n, slope = p.weight_gradient[c] * scale / n;
        const float da = (widened(g[i]) - plain - (p.before(v) - p.mean[c]) * slope) * factor;
        out[i] = narrowed<T>(da * p.before.derivative(v));
    });
}

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_total_f32(const BatchNormStatistics p) { total(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_sums_f32(const BatchNormStatistics p) { statistics<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_f32(const BatchNormOutput p) { normalise<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_sums_f32(const BatchNormSums p) { backward_sums<float>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_f32(const BatchNormBackward p) { backward<float>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_sums_bf16(const BatchNormStatistics p) { statistics<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_bf16(const BatchNormOutput p) { normalise<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_sums_bf16(const BatchNormSums p) { backward_sums<__nv_bfloat16>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_bf16(const BatchNormBackward p) { backward<__nv_bfloat16>(p); }

extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_forward_sums_f16(const BatchNormStatistics p) { statistics<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_forward_f16(const BatchNormOutput p) { normalise<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_sums_f16(const BatchNormSums p) { backward_sums<__half>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_batch_norm_train_backward_f16(const BatchNormBackward p) { backward<__half>(p); }
