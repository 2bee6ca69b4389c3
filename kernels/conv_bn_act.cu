// y = activation(conv2d(x, w) + bias + residual), f32, NHWC, for inference.
//
// Shapes, launches, order of sums and floor as conv2d's forward kernels in
// conv2d.cu; bias, residual and activation follow in registers. x and y may be channels
// of wider images (DenseNet's blocks grow in place). `activated` reads relu(scale x +
// shift) instead of x, scale and shift (C) f32: a batch norm in front of it. bf16 and f16, and
// groups of one channel, use conv2d's own kernels, which have the same epilogue.
#include "common/conv.cuh"

using namespace eosin;

extern "C" __global__ void __launch_bounds__(256) eosin_conv_bn_act_forward_f32(const ConvParams p) { conv_forward<64, 64>(p); }
extern "C" __global__ void __launch_bounds__(256, 2) eosin_conv_bn_act_forward_activated_f32(const ConvParams p) { conv_forward<64, 64, true>(p); }
