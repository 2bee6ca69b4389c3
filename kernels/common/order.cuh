// The order of values that sort, topk and argmax share.
#pragma once
#include "common/base.cuh"

namespace eosin {

// A number whose order as an integer is that of the value: NaN above all, -0 as
// 0.
__device__ inline unsigned rank_of(float value) {
    if (value != value) return 0xffffffffu;
    const unsigned bits = value == 0.0f ? 0u : __float_as_uint(value);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace eosin
