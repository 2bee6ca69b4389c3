//! Which launches convolutions of 16-bit floats become, on a driver that records
//! them.

use eosin::Tensor;
use eosin::autograd::grad;
use eosin::device::cuda::null::Recorded;
use eosin::ops::{self, Activation, Conv2d, PreparedConv};

use crate::products::{launch, launches};

/// Those of the convolution itself and of its gradients, without the changes of
/// layout around them.
fn of_convolution(x: [usize; 4], w: [usize; 4], geometry: Conv2d) -> Vec<Recorded> {
    let mut found = launches(|zeros| {
        let (x, w) = (zeros(&x).variable(), zeros(&w).variable());
        let y = ops::conv2d(&x, &w, None, geometry)?;
        let seed = Tensor::zeros(y.shape(), y.dtype())?.to(&y.device())?;
        grad(&[&y], Some(&[&seed]), &[&x, &w], false)?;
        Ok(())
    });
    found.retain(|launch| launch.kernel.starts_with("eosin_conv2d"));
    found
}

/// A 3 x 3 convolution of the first stage of a residual network: 64 columns are one
/// tile across, and the weights' gradient, 9 tiles, is cut into parts.
#[test]
fn few_channels_have_narrow_tiles() {
    let geometry = Conv2d {
        padding: [1, 1],
        ..Conv2d::default()
    };
    let found = of_convolution([16, 64, 56, 56], [64, 64, 3, 3], geometry);
    let narrow = |kernel| launch(kernel, [392, 1, 1], 256, 48 << 10);
    let sums = "eosin_conv2d_weight_gradient_forward_64x64_bf16";
    let join = "eosin_conv2d_weight_gradient_forward_join_bf16";
    assert_eq!(
        found,
        [
            narrow("eosin_conv2d_forward_128x64_bf16"),
            narrow("eosin_conv2d_input_gradient_forward_128x64_bf16"),
            launch(sums, [9, 1, 29], 128, 32 << 10),
            launch(join, [144, 1, 1], 256, 0),
        ]
    );
}

/// The gradient of x has a part of the tiles for each of the four phases of a stride
/// of 2, of which three get nothing from a kernel of one tap.
#[test]
fn a_stride_has_phases() {
    let geometry = Conv2d {
        stride: [2, 2],
        ..Conv2d::default()
    };
    let found = of_convolution([8, 256, 56, 56], [512, 256, 1, 1], geometry);
    assert_eq!(
        found[..2],
        [
            launch(
                "eosin_conv2d_forward_128x128_bf16",
                [49 * 4, 1, 1],
                256,
                64 << 10
            ),
            launch(
                "eosin_conv2d_input_gradient_forward_128x128_bf16",
                [4 * 49 * 2, 1, 1],
                256,
                64 << 10
            ),
        ]
    );
}

/// Bias, residual and activation need no launch of their own, with or without parts.
#[test]
fn what_follows_a_convolution_is_in_its_launch() {
    let found = launches(|zeros| {
        let conv = PreparedConv::new(
            &zeros(&[64, 256, 1, 1]),
            Some(&zeros(&[64])),
            Activation::Relu,
            Conv2d::default(),
        )?;
        conv.apply(&zeros(&[8, 256, 56, 56]), Some(&zeros(&[8, 64, 56, 56])))?;
        conv.apply(&zeros(&[1, 256, 7, 7]), Some(&zeros(&[1, 64, 7, 7])))?;
        Ok(())
    });
    let names: Vec<&str> = (found.iter())
        .map(|launch| launch.kernel)
        .filter(|name| !name.contains("to_format"))
        .collect();
    assert_eq!(
        names,
        [
            "eosin_conv2d_forward_128x64_bf16",
            "eosin_conv2d_forward_64x64_bf16"
        ]
    );
}
