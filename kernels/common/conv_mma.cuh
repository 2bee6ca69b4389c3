// Convolutions as products of 16-bit floats on tensor cores: the panels of mma.cuh
// whose pieces are gathered from NHWC images, and what they are multiplied with.
//
// The sum of a convolution runs over (tap row, tap column, channel), where each
// tap's channels, those of a group, are filled up to whole pieces of 8: a piece is
// of one tap, and what it lacks, like what lies outside of the image, becomes zero
// on its way to shared memory. No image is ever written out as a matrix.
#pragma once
#include "common/conv.cuh"
#include "common/mma.cuh"

namespace eosin {

// Elements in whole pieces.
__device__ inline unsigned padded(unsigned n) { return (n + 7) / 8 * 8; }

// How the rows of a product and the taps move along one axis of an image: row i
// with tap t reads place origin + i advance + t shift.
struct Axis {
    int origin, advance, shift;
    unsigned size;              // of the image
    unsigned rows, row, apart;  // row i is place row + i apart of the result
    unsigned taps, tap, every;  // tap t is the kernel's tap + t every
};

// An axis of y, which reads x.
__device__ inline Axis forward_axis(
    unsigned size, unsigned rows, unsigned taps, unsigned stride, unsigned padding, unsigned dilation) {
    return {-int(padding), int(stride), int(dilation), size, rows, 0, 1, taps, 0, 1};
}

// The places of an axis of x that are `phase` modulo the stride, which read gy.
// Only the taps that move such a place to a multiple of the stride reach y, so of
// stride times stride phases each takes its share of the kernel, and none
// multiplies zeros between the pixels of gy.
__device__ inline Axis backward_axis(
    unsigned phase, unsigned size, unsigned rows, unsigned taps, unsigned stride, unsigned padding,
    unsigned dilation) {
    unsigned first = 0;
    while (first < stride && first < taps && (int(phase + padding) - int(first * dilation)) % int(stride) != 0) ++first;
    unsigned every = 1;
    while (every * dilation % stride != 0) ++every;
    const unsigned held = first < stride && first < taps ? (taps - first + every - 1) / every : 0;
    const int moved = int(phase + padding) - int(first * dilation);
    return {
        // Exact if a tap is held.
        moved / int(stride), 1, -int(every * dilation / stride), rows,
        phase < size ? (size - phase + stride - 1) / stride : 0, phase, stride, held, first, every};
}

// A number as three digits, and how it grows by DEPTH.
struct Digits {
    unsigned low, middle, high;
};

struct Radix {
    unsigned low, middle;
    Digits step;

    __device__ Radix(unsigned low, unsigned middle) : low(max(low, 1u)), middle(max(middle, 1u)), step(of(DEPTH)) {}

    __device__ Digits of(unsigned n) const { return {n % low, n / low % middle, n / low / middle}; }

    __device__ void advance(Digits& d) const {
        d.low += step.low;
        const unsigned carry = d.low >= low;
        d.low -= carry ? low : 0;
        d.middle += step.middle + carry;
        const unsigned next = d.middle >= middle;
        d.middle -= next ? middle : 0;
        d.high += step.high + next;
    }
};

// Starts to bring `most` elements, 1 to 8, of each piece that is there, and zeros
// after them and for the others, to where the plan has the thread's pieces. `simple`
// says that pieces are whole and copies wide.
template <class Plan>
__device__ inline void bring_some(
    unsigned char* to, const unsigned short* data, const unsigned (&from)[Plan::EACH],
    const bool (&there)[Plan::EACH], bool simple, unsigned most, unsigned width) {
    if (simple) {
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j)
            ptx::cp_async<16>(to + Plan::own(j), data + (there[j] ? from[j] : 0), there[j] ? 16 : 0);
    } else {
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j)
            bring_piece(to + Plan::own(j), data + (there[j] ? from[j] : 0), there[j] ? most : 0, 1, width);
    }
}

// Rows: pixels. Along K: the taps and channels of what they read.
template <int B, int THREADS>
struct HalfPatches : PanelPlan<B, true, THREADS> {
    using Plan = PanelPlan<B, true, THREADS>;

    const unsigned short* image;  // at the group's first channel
    const Axis &down, &across;
    unsigned pixel, channels, width;  // elements from pixel to pixel, of the group, bytes of a copy
    int h0[Plan::EACH], v0[Plan::EACH];  // what tap 0 reads
    unsigned start[Plan::EACH];          // its element, modulo 2^32 if it is before the image
    Radix radix;
    Digits at;

    __device__ HalfPatches(const unsigned short* image, const Axis& down, const Axis& across, unsigned pixel,
                           unsigned channels, unsigned width, unsigned batch, unsigned first_row, unsigned k)
        : image(image), down(down), across(across), pixel(pixel), channels(channels), width(width),
          radix(padded(channels), across.taps), at(radix.of(k + Plan::first())) {
        const Radix places(across.rows, down.rows);
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            const Digits row = places.of(first_row + Plan::line(j));
            const int h = down.origin + int(row.middle) * down.advance;
            v0[j] = across.origin + int(row.low) * across.advance;
            start[j] = ((row.high * down.size + unsigned(h)) * across.size + unsigned(v0[j])) * pixel;
            // No pixel: far outside of every image.
            h0[j] = row.high < batch ? h : -(1 << 30);
        }
    }

    __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) {
        const unsigned most = k + Plan::first() < k_end ? min(channels - at.low, 8u) : 0;
        const int lower = int(at.high) * down.shift, further = int(at.middle) * across.shift;
        const unsigned moved = (unsigned(lower) * across.size + unsigned(further)) * pixel + at.low;
        unsigned from[Plan::EACH];
        bool there[Plan::EACH];
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            from[j] = start[j] + moved;
            there[j] = most > 0 && unsigned(h0[j] + lower) < down.size && unsigned(v0[j] + further) < across.size;
        }
        bring_some<Plan>(to, image, from, there, width == 16 && channels % 8 == 0, most, width);
        radix.advance(at);
    }
};

// The same as relu(scale x + shift), of filters of one tap on images without padding:
// each thread does that to its own pieces once they are there.
template <class Half, int B, int THREADS>
struct ActivatedPatches : HalfPatches<B, THREADS> {
    using Patches = HalfPatches<B, THREADS>;
    using Plan = PanelPlan<B, true, THREADS>;

    const float *scale, *shift;  // at the group's first channel

    __device__ ActivatedPatches(const Patches& patches, const float* scale, const float* shift)
        : Patches(patches), scale(scale), shift(shift) {}

    __device__ void arrived(unsigned char* panel, unsigned k, unsigned k_end) const {
        const unsigned channel = k + Plan::first();
        if (channel >= k_end) return;
        float times[8] = {}, more[8] = {};
#pragma unroll
        for (unsigned e = 0; e < 8; ++e) {
            if (channel + e < this->channels) times[e] = scale[channel + e], more[e] = shift[channel + e];
        }
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            struct alignas(16) Piece { typename Half::Scalar v[8]; };
            Piece piece = *reinterpret_cast<const Piece*>(panel + Plan::own(j));
#pragma unroll
            for (int e = 0; e < 8; ++e)
                piece.v[e] = narrowed<typename Half::Scalar>(activated(widened(piece.v[e]), times[e], more[e]));
            *reinterpret_cast<Piece*>(panel + Plan::own(j)) = piece;
        }
    }
};

// Columns: filters (K, R, S, C). Along K: all of their taps and channels.
template <int B, int THREADS>
struct HalfFilters : PanelPlan<B, true, THREADS> {
    using Plan = PanelPlan<B, true, THREADS>;

    const unsigned short* w;  // at the group's first filter
    unsigned filters, line, channels, width;  // elements of a filter and of its taps
    unsigned start;

    __device__ HalfFilters(const unsigned short* w, unsigned filters, unsigned taps, unsigned channels,
                           unsigned width, unsigned start)
        : w(w), filters(filters), line(taps * channels), channels(channels), width(width), start(start) {}

    __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) {
        // Where nothing is filled up, a filter is one line of K.
        const bool simple = width == 16 && channels % 8 == 0;
        const unsigned piece = k + Plan::first();
        unsigned moved = piece, most = 8;
        if (!simple) {
            const unsigned channel = piece % padded(channels);
            moved = piece / padded(channels) * channels + channel;
            most = min(channels - channel, 8u);
        }
        unsigned from[Plan::EACH];
        bool there[Plan::EACH];
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            const unsigned filter = start + Plan::line(j);
            from[j] = filter * line + moved;
            there[j] = piece < k_end && filter < filters;
        }
        bring_some<Plan>(to, w, from, there, simple, most, width);
    }
};

// Columns: channels of filters (K, R, S, C). Along K: the taps of two axes and the
// filters.
template <int B, int THREADS>
struct HalfTurnedFilters : PanelPlan<B, false, THREADS> {
    using Plan = PanelPlan<B, false, THREADS>;

    const unsigned short* w;  // at the group's first filter and its first tap
    unsigned filters, channels, width;
    unsigned filter, down, across;  // elements from filter to filter and tap to tap
    unsigned column;
    Radix radix;
    Digits at[Plan::EACH];

    __device__ HalfTurnedFilters(const unsigned short* w, const Axis& down, const Axis& across, unsigned filters,
                                 unsigned taps, unsigned taps_across, unsigned channels, unsigned width,
                                 unsigned start, unsigned k)
        : w(w + u64(down.tap * taps_across + across.tap) * channels), filters(filters), channels(channels),
          width(width), filter(taps * channels), down(down.every * taps_across * channels),
          across(across.every * channels), column(start + Plan::first()), radix(padded(filters), across.taps) {
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) at[j] = radix.of(k + Plan::line(j));
    }

    __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) {
        const unsigned most = column < channels ? min(channels - column, 8u) : 0;
        unsigned from[Plan::EACH];
        bool there[Plan::EACH];
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            from[j] = at[j].low * filter + at[j].high * down + at[j].middle * across + column;
            there[j] = most > 0 && k + Plan::line(j) < k_end && at[j].low < filters;
            radix.advance(at[j]);
        }
        bring_some<Plan>(to, w, from, there, width == 16 && channels % 8 == 0, most, width);
    }
};

// Columns: taps and channels of what pixels read. Along K: the pixels.
template <int B, int THREADS>
struct HalfTurnedPatches : PanelPlan<B, false, THREADS> {
    using Plan = PanelPlan<B, false, THREADS>;

    const unsigned short* image;  // at the group's first channel
    const Axis &down, &across;
    unsigned pixel, width;
    bool simple;             // whether pieces are all whole or all missing
    int h0, v0;              // what the column's tap of pixel (0, 0) reads
    unsigned channel, most;  // of the column; elements of its piece
    Radix radix;
    Digits at[Plan::EACH];

    __device__ HalfTurnedPatches(const unsigned short* image, const Axis& down, const Axis& across, unsigned pixel,
                                 unsigned channels, unsigned width, unsigned start, unsigned k)
        : image(image), down(down), across(across), pixel(pixel), width(width),
          simple(width == 16 && channels % 8 == 0), radix(across.rows, down.rows) {
        const Digits column = Radix(padded(channels), across.taps).of(start + Plan::first());
        h0 = down.origin + int(column.high) * down.shift;
        v0 = across.origin + int(column.middle) * across.shift;
        channel = column.low;
        most = column.high < down.taps ? min(channels - channel, 8u) : 0;
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) at[j] = radix.of(k + Plan::line(j));
    }

    __device__ void bring(unsigned char* to, unsigned k, unsigned k_end) {
        unsigned from[Plan::EACH];
        bool there[Plan::EACH];
#pragma unroll
        for (int j = 0; j < Plan::EACH; ++j) {
            const unsigned h = unsigned(h0 + int(at[j].middle) * down.advance);
            const unsigned v = unsigned(v0 + int(at[j].low) * across.advance);
            from[j] = ((at[j].high * down.size + h) * across.size + v) * pixel + channel;
            there[j] = most > 0 && k + Plan::line(j) < k_end && h < down.size && v < across.size;
            radix.advance(at[j]);
        }
        bring_some<Plan>(to, image, from, there, simple, most, width);
    }
};

}  // namespace eosin
