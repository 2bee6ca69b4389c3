// 16-bit floats and bit functions against the host's.
#include "common/base.cuh"

struct ConvertParams {
    uint16_t* half;      // in[i] in each format
    uint16_t* bfloat;
    float* from_half;    // the bits of i as each format
    float* from_bfloat;
    const float* in;
};

extern "C" __global__ void __launch_bounds__(256) probe_conversions(const ConvertParams p) {
    unsigned i = blockIdx.x * 256 + threadIdx.x;
    p.half[i] = __half_as_ushort(__float2half_rn(p.in[i]));
    p.bfloat[i] = __bfloat16_as_ushort(__float2bfloat16_rn(p.in[i]));
    auto bits = static_cast<unsigned short>(i);
    p.from_half[i] = __half2float(__ushort_as_half(bits));
    p.from_bfloat[i] = __bfloat162float(__ushort_as_bfloat16(bits));
}

struct BitsParams {
    unsigned* out;       // [9][32]
    const unsigned* in;  // [2][32]
};

extern "C" __global__ void __launch_bounds__(32) probe_bits(const BitsParams p) {
    unsigned a = p.in[threadIdx.x], b = p.in[32 + threadIdx.x], row = 0;
    auto answer = [&](unsigned v) { p.out[32 * row++ + threadIdx.x] = v; };
    answer(__umulhi(a, b));
    answer(unsigned(__mulhi(int(a), int(b))));
    answer(__brev(a));
    answer(unsigned(__popc(int(a))));
    answer(unsigned(__clz(int(a))));
    answer(unsigned(__ffs(int(a))));
    answer(__funnelshift_l(a, b, 9));
    answer(__funnelshift_r(a, b, 9));
    answer(__byte_perm(a, b, 0x7105));
}
