// A sparse map of an axis: row o is taps[starts[o]] to before taps[starts[o + 1]],
// inputs ascending.
#pragma once
#include "common/base.cuh"

namespace eosin {

struct Tap {
    unsigned input;
    float weight;
};

// src/ops/separable/cuda.rs has its twin.
struct Map {
    const unsigned* starts;
    const Tap* taps;
    unsigned inputs, outputs;
};

}  // namespace eosin
