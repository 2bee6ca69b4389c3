//! Both shapes of the innermost sums, for 256-bit and for 512-bit registers, give the
//! same bits, so that results do not depend on which of them a processor takes. What
//! they compute is compared with f64 in tests/ops.

use super::epilogue::{Epilogue, Residual};
use super::map::Map;
use super::pack::Packed;
use super::winograd::{self, Transformed};
use super::{Conv2d, Sizes, dense};
use crate::ops::matmul::cpu::kernel::{F32_COLUMNS, MR, WIDE_COLUMNS, WIDE_ROWS};
use crate::ops::pointwise::Function;
use crate::tensor::Tensor;

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut s = seed;
    let next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// One convolution by each of the ways that it can take.
fn compare(channels: [usize; 2], input: [usize; 2], kernel: usize, geometry: Conv2d) {
    let along = |axis: usize| {
        (input[axis] + 2 * geometry.padding[axis] - kernel) / geometry.stride[axis] + 1
    };
    let sizes = Sizes {
        batch: 3,
        channels,
        input,
        output: [along(0), along(1)],
        kernel: [kernel; 2],
        geometry,
    };
    let [c, k] = channels;
    let what = format!("{sizes:?}");
    let x = values(3 * input[0] * input[1] * c, 1);
    let w = values(k * c / geometry.groups * kernel * kernel, 2);
    let w = Tensor::from_slice(&w, &sizes.w_shape()).unwrap();
    let bias = values(k, 3);
    let before = values(3 * along(0) * along(1) * k, 4);
    let map = Map::forward(&sizes);
    for residual in [Residual::None, Residual::Within, Residual::Apart(&before)] {
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual,
            activation: Some(Function::LeakyRelu(0.0)),
        };
        let bits = |f: &dyn Fn(&mut [f32])| -> Vec<u32> {
            let mut out = before.clone();
            f(&mut out);
            out.iter().map(|v| v.to_bits()).collect()
        };
        let narrow = Packed::<f32, F32_COLUMNS>::forward(&w, &sizes).unwrap();
        let wide = Packed::<f32, WIDE_COLUMNS>::forward(&w, &sizes).unwrap();
        let direct = bits(&|out| {
            dense::run::<f32, F32_COLUMNS, MR>(&x, &map, &narrow, &epilogue, out);
        });
        let other = bits(&|out| {
            dense::run::<f32, WIDE_COLUMNS, WIDE_ROWS>(&x, &map, &wide, &epilogue, out);
        });
        assert!(direct == other, "{what}: direct");
        if winograd::suits::<f32>(&sizes) {
            let narrow = Transformed::<f32, F32_COLUMNS, 4>::new(&w, &sizes, false).unwrap();
            let wide = Transformed::<f32, WIDE_COLUMNS, 4>::new(&w, &sizes, false).unwrap();
            let fewer = bits(&|out| {
                winograd::run::<f32, F32_COLUMNS, MR, 4>(&x, &map, &narrow, &epilogue, out);
            });
            let other = bits(&|out| {
                winograd::run::<f32, WIDE_COLUMNS, WIDE_ROWS, 4>(&x, &map, &wide, &epilogue, out);
            });
            assert!(fewer == other, "{what}: fewer products");
            assert!(fewer != direct, "{what}: the same way twice");
        }
    }
}

#[test]
fn shapes_of_sums_give_the_same_bits() {
    let same = Conv2d {
        padding: [1, 1],
        ..Conv2d::default()
    };
    let halved = Conv2d {
        stride: [2, 2],
        padding: [3, 3],
        ..Conv2d::default()
    };
    compare([48, 40], [9, 13], 3, same);
    compare([72, 64], [6, 5], 3, same);
    compare([100, 72], [7, 11], 1, Conv2d::default());
    compare([3, 36], [21, 17], 7, halved);
    compare(
        [24, 36],
        [9, 8],
        3,
        Conv2d {
            groups: 2,
            ..halved
        },
    );
}
