// The dtypes that arithmetic is done in: kept as T, computed in f32, rounded once.
#pragma once
#include "common/base.cuh"

namespace eosin {

__device__ inline float widened(float v) { return v; }
__device__ inline float widened(__half v) { return __half2float(v); }
__device__ inline float widened(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ T narrowed(float v);
template <>
__device__ inline float narrowed<float>(float v) { return v; }
template <>
__device__ inline __half narrowed<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ inline __nv_bfloat16 narrowed<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

}  // namespace eosin
