// index_select  y[.., i, ..] = x[.., index[i], ..]; elements of 1, 2, 4 or 8 bytes
// index_add     y[.., index[i], ..] += x[.., i, ..], from zeros; f32
// The index is i64 and has one axis.
//
// Launch: 256 threads, 4 elements of the result each, elements / 1024 blocks
// rounded up. Deterministic: one thread owns each element of the result, and
// sums take their terms in ascending order. An index out of bounds is reported
// through the control block and stands for no element.
// Floor: memory bandwidth, index, what is read and the result once; the sums
// look at every index of their line, which is more where an axis is long.
#include "common/indexed.cuh"

extern "C" __global__ void __launch_bounds__(256) eosin_index_select_forward_b1(const __grid_constant__ eosin::Indexed p) { eosin::read_indexed<unsigned char>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_index_select_forward_b2(const __grid_constant__ eosin::Indexed p) { eosin::read_indexed<unsigned short>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_index_select_forward_b4(const __grid_constant__ eosin::Indexed p) { eosin::read_indexed<unsigned>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_index_select_forward_b8(const __grid_constant__ eosin::Indexed p) { eosin::read_indexed<eosin::u64>(p); }
extern "C" __global__ void __launch_bounds__(256) eosin_index_add_forward_f32(const __grid_constant__ eosin::Indexed p) { eosin::add_indexed(p); }
